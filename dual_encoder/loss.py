"""The symmetric contrastive loss (CLIP, section 2.3), its negatives taken from all processes.

Shapes: b pairs of this process, B of all processes together, E the width of the shared space.
"""

import torch
from torch import Tensor, distributed
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from dual_encoder.config import LossConfig


def contrastive_loss(
    images: Tensor,
    text: Tensor,
    scale: Tensor,
    concepts: Tensor,
    config: LossConfig,
    alone: bool = False,
    wrong: tuple[Tensor, Tensor] | None = None,
) -> Tensor:
    """The mean over pairs of both cross-entropies, image to caption and caption to image.

    `images` and `text` [b, E] are features of length 1, row i of both a pair; `scale` multiplies
    their cosines; `concepts`, int64 [b], are equal where captions say the same. With several
    processes, all of which hold as many pairs, each returns the mean over its own pairs against
    all B: the average of these over processes, and that of their gradients, which is what
    DistributedDataParallel takes, are the loss and the gradient of the whole batch. `alone` leaves
    the other processes out, where one measures by itself. `wrong` are one more negative of each
    image: features [b, E] of a caption that is not its own, and whether there is one, bool [b].
    """
    width, first = images.shape[1], 0
    pairs, all_concepts = torch.cat([images, text], dim=1), concepts
    if _several_processes() and not alone:
        pairs, all_concepts = gather(pairs), gather(concepts)
        first = len(images) * distributed.get_rank()
    own = torch.arange(first, first + len(images), device=images.device)
    rows = config.chunk or len(images)
    total = images.new_zeros(())
    for queries, keys in ((images, pairs[:, width:]), (text, pairs[:, :width])):
        parts = zip(queries.split(rows), own.split(rows), concepts.split(rows), strict=True)
        for number, part in enumerate(parts):
            extra = None
            if wrong is not None and queries is images:
                extra = tuple(each.split(rows)[number] for each in wrong)
            arguments = (*part, keys, all_concepts, scale, config.same_caption, extra)
            if rows < len(images):
                # Computed once more in the backward pass, so that one chunk exists at a time.
                total = total + checkpoint(
                    _cross_entropy, *arguments, use_reentrant=False, preserve_rng_state=False
                )
            else:
                total = total + _cross_entropy(*arguments)
    return total / (2 * len(images))


def preference_loss(images: Tensor, text: Tensor, scale: Tensor, members: Tensor) -> Tensor:
    """The mean over captions of the cross-entropy of their right image among their wrong ones.

    `images` [n, E] and `text` [G, E] are features of length 1. `members`, int64 [G, 1 + W], says
    which images are a caption's: the right one, then the wrong ones; -1: no image. A caption
    without a wrong image costs nothing. No caption sees another one's images, so with several
    processes of as many captions the average of their losses is that of all.
    """
    cosines = (images[members.clamp(min=0)] * text[:, None]).sum(dim=-1)
    logits = (scale * cosines).masked_fill(members < 0, -torch.inf)
    return F.cross_entropy(logits, members.new_zeros(len(members)))


def _cross_entropy(
    queries: Tensor,
    own: Tensor,
    concepts: Tensor,
    keys: Tensor,
    all_concepts: Tensor,
    scale: Tensor,
    same_caption: str,
    wrong: tuple[Tensor, ...] | None,
) -> Tensor:
    """The sum over queries [n, E] of the cross-entropy of their own key's place, `own` [n]."""
    logits = scale * queries @ keys.T
    if wrong is not None:
        features, there = wrong
        last = (scale * (queries * features).sum(dim=1)).masked_fill(~there, -torch.inf)
        logits = torch.cat([logits, last[:, None]], dim=1)
        all_concepts = torch.cat([all_concepts, all_concepts.new_zeros(1)])
    if same_caption == "negative":
        return F.cross_entropy(logits, own, reduction="sum")
    equal = concepts[:, None] == all_concepts
    if wrong is not None:
        equal[:, -1] = False
    if same_caption == "ignored":
        others = equal.scatter(1, own[:, None], False)
        return F.cross_entropy(logits.masked_fill(others, -torch.inf), own, reduction="sum")
    shares = equal.to(logits.dtype) / equal.sum(dim=1, keepdim=True)
    # Not a product with the logarithms: 0 times minus infinity, where there is no wrong caption.
    return -logits.log_softmax(dim=1).masked_fill(~equal, 0).mul(shares).sum()


def gather(rows: Tensor) -> Tensor:
    """The rows of all processes, [b, ...] to [B, ...], in the order of their ranks.

    The gradient of a row is the sum of what all processes' losses give it.
    """
    return _Gather.apply(rows)  # type: ignore[return-value]


def _several_processes() -> bool:
    if not (distributed.is_available() and distributed.is_initialized()):
        return False
    return distributed.get_world_size() > 1


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx, rows: Tensor) -> Tensor:
        parts = [torch.empty_like(rows) for _ in range(distributed.get_world_size())]
        distributed.all_gather(parts, rows.contiguous())
        return torch.cat(parts)

    @staticmethod
    def backward(ctx, gradient: Tensor) -> Tensor:  # type: ignore[override]
        gradient = gradient.clone(memory_format=torch.contiguous_format)
        distributed.all_reduce(gradient)
        return gradient.chunk(distributed.get_world_size())[distributed.get_rank()]
