"""How well a dual encoder finds captions for images, and images for captions."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from dual_encoder.examples import HeldOut
from dual_encoder.loss import LossConfig, contrastive_loss
from dual_encoder.ranker import Ranker
from dual_encoder.spoiled import Group, squares

RECALLS = (1, 5, 10)
"""Recall@k is the share of queries whose own is among their k best."""


def ranks(scores: Tensor, right: Tensor) -> Tensor:
    """The rank, from 1, of each query's best right answer: scores and right [n, m] to [n].

    A wrong answer that scores the same counts as a better one.
    """
    best = scores.masked_fill(~right, -torch.inf).amax(dim=1, keepdim=True)
    return ((scores >= best) & ~right).sum(dim=1) + 1


def retrieval(images: Tensor, text: Tensor, captions: list[str]) -> dict[str, float]:
    """Recalls and median ranks both ways, of features [n, E] whose rows i are pairs.

    Where several images have the same caption, each of them is a right answer to it, and it to
    each of them. `mean_recall` is the mean of the six recalls.
    """
    return rank_figures(found_ranks(images, text, captions))


def rank_figures(found: Mapping[str, Tensor]) -> dict[str, float]:
    """The figures of `retrieval` from the ranks of `found_ranks`."""
    figures: dict[str, float] = {}
    for name, each in found.items():
        for k in RECALLS:
            figures[f"{name}_recall_{k}"] = (each <= k).double().mean().item()
        figures[f"{name}_median_rank"] = each.double().quantile(0.5).item()
    recalls = [value for key, value in figures.items() if "recall" in key]
    return figures | {"mean_recall": sum(recalls) / len(recalls)}


def found_ranks(images: Tensor, text: Tensor, captions: list[str]) -> dict[str, Tensor]:
    """The rank, from 1, of each query's best right answer, [n], both ways: see `retrieval`."""
    numbers = {caption: number for number, caption in enumerate(captions)}
    labels = torch.tensor([numbers[caption] for caption in captions])
    right = labels[:, None] == labels
    scores = images @ text.T
    return {
        "caption_to_picture": ranks(scores.T, right),
        "picture_to_caption": ranks(scores, right),
    }


def classification(
    images: Tensor, text: Tensor, captions: list[str], among: int = 100, seed: int = 0
) -> float:
    """The share of images that are `classified` right."""
    return classified(images, text, captions, among, seed).double().mean().item()


def classified(
    images: Tensor, text: Tensor, captions: list[str], among: int = 100, seed: int = 0
) -> Tensor:
    """Whether each image's own caption beats `among` - 1 others: features [n, E] to bool [n].

    `text` [n, E] are the features of their captions. The others are chosen at random for each image
    from those that say something else; all of them where there are fewer.
    """
    first = {caption: i for i, caption in reversed(list(enumerate(captions)))}
    rows = torch.tensor(list(first.values()))
    own = torch.tensor([list(first).index(caption) for caption in captions])
    scores = images @ text[rows].T
    generator = torch.Generator().manual_seed(seed)
    order = torch.rand(scores.shape, generator=generator).scatter(1, own[:, None], -1.0)
    chosen = order.argsort(dim=1)[:, :among]  # the own one first
    others = scores.gather(1, chosen[:, 1:])
    best = others.amax(dim=1) if others.shape[1] else torch.full((len(images),), -torch.inf)
    return scores.gather(1, own[:, None])[:, 0] > best


def measure(ranker: Ranker, held_out: HeldOut, loss: LossConfig) -> dict[str, float]:
    """`retrieval` on held-out pairs, and their loss as one batch, in nats."""
    images = ranker.image_features(held_out.images)
    text = ranker.text_features(held_out.captions)
    value = held_out_loss(ranker, images, text, held_out, loss)
    return {"held_out_loss": value, **retrieval(images, text, held_out.captions)}


def held_out_loss(
    ranker: Ranker, images: Tensor, text: Tensor, held_out: HeldOut, loss: LossConfig
) -> float:
    """The loss, in nats, of held-out pairs as one batch, of their features [n, E]."""
    scale = ranker.model.scale().detach().cpu()
    with torch.inference_mode():
        value = contrastive_loss(images, text, scale, held_out.concepts, loss, alone=True)
    return value.item()


def spoiled_accuracy(ranker: Ranker, groups: Sequence[Group]) -> float:
    """The share of captions of which a right image scores above all wrong ones: it is chosen.

    A wrong image that scores the same counts as a better one.
    """
    size, chosen = ranker.model.config.image_size, 0
    text = ranker.text_features([group.caption for group in groups])
    contents = [content for group in groups for content in (*group.right, *group.wrong)]
    scores = ranker.image_features(squares(contents, size)).split(
        [len(group.right) + len(group.wrong) for group in groups]
    )
    for group, features, caption in zip(groups, scores, text, strict=True):
        right, wrong = (features @ caption).split([len(group.right), len(group.wrong)])
        chosen += bool(right.max() > wrong.max())
    return chosen / len(groups)
