"""What a transformer may learn from beside the paper's way: each option does what it says."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from builders import build, inputs
from torch import nn
from torch.nn import functional as F

from dalle.checkpoint import load_text_to_image
from dalle.config import CodesConfig
from dalle.examples import cached_examples
from dalle.initialise import start_from_codebook
from dalle.loss import exchange, sample_heads, summed_cross_entropy
from dalle.patterns import paper_layers
from dalle_base.common.errors import UserError
from dalle_base.common.schema import validate_all
from dalle_base.data.batches import Shuffled
from dalle_base.data.text import PADDING
from dvae.checkpoint import load_tokenizer, save_tokenizer
from dvae.config import DVAEConfig, NetworkConfig
from dvae.kinds import KINDS, SavedTokenizer, tokenizer_class
from dvae.model import DiscreteVAE
from dvae.networks import one_hot
from dvae.tokenizer import ImageTokenizer
from experiments import grow_decoder, grow_transformer, split_codebook
from experiments.grow_decoder import grow
from train_dalle import TrainDALLE


def test_smoothed_targets_are_a_mixture_with_the_uniform_distribution() -> None:
    head, h, targets = nn.Linear(6, 9).double(), torch.randn(20, 6).double(), torch.arange(20) % 9
    log_p = head(h).log_softmax(dim=-1)
    mixture = 0.8 * F.one_hot(targets, 9) + 0.2 / 9
    expected = -(mixture * log_p).sum()
    for most in (10**6, 30):  # whole, and in chunks
        loss = summed_cross_entropy(head, h, targets, 0.2, most_logits=most).double()
        torch.testing.assert_close(loss, expected, rtol=1e-6, atol=0)


def test_smoothing_is_trainings_and_the_images_alone() -> None:
    plain, model = build(), build(label_smoothing=0.3)
    tokens, codes = inputs(model)
    assert model.eval().loss(tokens, codes) == plain.eval().loss(tokens, codes)
    smoothed, sharp = model.train().loss(tokens, codes), plain.train().loss(tokens, codes)
    assert smoothed.text == sharp.text
    log_p = model.logits(tokens, codes)[1].log_softmax(dim=-1)
    expected = 0.7 * sharp.image - 0.3 * log_p.mean()
    torch.testing.assert_close(smoothed.image, expected)


def test_z_loss_is_the_squared_denominator_of_what_has_a_target() -> None:
    head, h = nn.Linear(6, 9).double(), torch.randn(20, 6).double()
    targets = torch.arange(20) % 9
    targets[3:7] = PADDING
    logits = head(h)
    counted = targets != PADDING
    expected = F.cross_entropy(logits[counted], targets[counted], reduction="sum")
    expected = expected + 0.3 * logits.exp().sum(dim=-1).log()[counted].square().sum()
    for most in (10**6, 30):
        loss = summed_cross_entropy(head, h, targets, z_weight=0.3, most_logits=most).double()
        torch.testing.assert_close(loss, expected, rtol=1e-6, atol=0)


def test_z_loss_is_trainings_alone_and_of_both_parts() -> None:
    plain, model = build(), build(z_loss=0.1)
    tokens, codes = inputs(model)
    assert model.eval().loss(tokens, codes) == plain.eval().loss(tokens, codes)
    with_z, without = model.train().loss(tokens, codes), plain.train().loss(tokens, codes)
    text, image = model.logits(tokens, codes)
    expected = without.image + 0.1 * image.logsumexp(dim=-1).square().mean()
    torch.testing.assert_close(with_z.image, expected)
    there = tokens != PADDING
    expected = without.text + 0.1 * text.logsumexp(dim=-1)[there].square().mean()
    torch.testing.assert_close(with_z.text, expected)


def test_one_padding_vector_stands_in_for_all_positions() -> None:
    model = build(padding="one")
    tokens, _ = inputs(model)
    tokens[0, 2:] = PADDING
    embedded = model.eval().embed_text(tokens)[0, 3:]
    expected = model.text_padding[0] + model.text_position[2:]
    torch.testing.assert_close(embedded, expected, rtol=0, atol=0)
    assert model.text_padding.shape == (1, model.config.d_model)
    assert build().text_padding.shape == model.text_position.shape


def test_sampled_codes_follow_the_heads_probabilities() -> None:
    head = nn.Linear(2, 3)
    h = torch.tensor([[1.0, 0.5], [-2.0, 1.0]]).expand(4000, 2, 2)
    torch.manual_seed(0)
    for most in (10**6, 300):
        sampled = sample_heads(head, h, most)
        assert sampled.shape == (4000, 2)
        found = F.one_hot(sampled, 3).float().mean(dim=0)
        torch.testing.assert_close(found, head(h[0]).softmax(dim=-1), rtol=0, atol=0.03)


def test_a_model_reads_its_own_samples_and_learns_the_true_codes() -> None:
    model = build(sampled_codes=1.0).train()
    tokens, codes = inputs(model, batch=50)
    read, outputs = [], model._outputs

    def watch(tokens: torch.Tensor, seen: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        read.append(seen)
        return outputs(tokens, seen)

    model._outputs = watch  # type: ignore[method-assign]
    losses = model.loss(tokens, codes)
    first, second = read
    assert torch.equal(first, codes)
    shares = (second != codes).float().mean(dim=1)
    assert shares.std() > 0.15  # each example draws its own share
    # Most of the codes that were exchanged are others: the model knows nothing yet.
    assert 0.3 < shares.mean() < 0.5
    expected = F.cross_entropy(
        model.image_head(outputs(tokens, second)[1]).flatten(0, 1), codes.flatten()
    )
    torch.testing.assert_close(losses.image, expected)
    losses.total.backward()
    assert model.image_embedding.weight.grad is not None
    read.clear()
    model.eval().loss(tokens, codes)
    assert len(read) == 1


def test_exchanging_takes_the_others_codes_at_the_same_places() -> None:
    codes, others = torch.zeros(30, 40), torch.arange(1200.0).view(30, 40) + 1
    mixed = exchange(codes, others, 1.0)
    changed = mixed != 0
    assert torch.equal(mixed[changed], others[changed])
    assert 0.4 < changed.float().mean() < 0.6
    assert torch.equal(exchange(codes, others, 0.0), codes)


@pytest.mark.parametrize("width", [5, 40])
def test_embeddings_started_from_a_codebook_keep_what_is_near(width: int) -> None:
    torch.manual_seed(0)
    low = torch.randn(30, 5) @ torch.randn(5, width)  # five dimensions that matter
    embedding = nn.Embedding(30, 12)
    start_from_codebook(embedding, low + 3)
    assert embedding.weight.std().item() == pytest.approx(0.02, rel=1e-4)
    before, after = (torch.cdist(each, each) for each in (low, embedding.weight.detach()))
    torch.testing.assert_close(after / after.mean(), before / before.mean(), rtol=1e-3, atol=1e-3)


def tiny_tokenizer(kind: str) -> ImageTokenizer:
    from dvae.vqgan.config import NetworkConfig as VQGANNetwork
    from dvae.vqgan.config import VQGANConfig

    torch.manual_seed(0)
    if kind == "dvae":
        network = NetworkConfig(width=8, groups=3, blocks=1, decoder_init=8, norm="group")
        return DiscreteVAE(DVAEConfig(16, 4, 12, network)).eval()
    network = VQGANNetwork(
        width=8, multipliers=[1, 1, 1], blocks=1, attention_levels=[], z_channels=8, code_width=4
    )
    return tokenizer_class(kind)(VQGANConfig(16, 4, 12, network=network)).eval()


@pytest.mark.parametrize("kind", KINDS)
def test_each_tokenizers_codebook_has_a_vector_of_its_own_for_each_code(kind: str) -> None:
    tokenizer = tiny_tokenizer(kind)
    codebook = tokenizer.codebook()
    assert len(codebook) == tokenizer.vocab_size == len(codebook.unique(dim=0))
    assert not codebook.requires_grad
    if isinstance(tokenizer, DiscreteVAE):
        first = tokenizer.decoder.get_submodule("blocks.input")
        bias = first.get_parameter("b")
        read = first(one_hot(torch.tensor([[[3, 7]]]), 12, torch.float32))[0, :, 0] - bias[:, None]
        torch.testing.assert_close(codebook[[3, 7]].T, read)


def test_a_tokenizer_without_a_codebook_says_so() -> None:
    class Plain(ImageTokenizer):
        encode = decode = loss = lambda self, *_: None  # type: ignore[assignment]

    with pytest.raises(UserError, match="Plain has no codebook: codebook_init=false"):
        Plain().codebook()


def shares(config: CodesConfig, updates: int = 100) -> list[float]:
    """The share of clean encodings (numbered 9) in each update's batch."""
    codes = torch.tensor([0, 1, 9] if config.keeps_clean else [0, 1]).view(1, -1, 1)
    codes, shown = codes.expand(64, -1, 4), torch.arange(64)
    order = Shuffled(64, 32, seed=0)
    captions = lambda keys: torch.tensor([index for index, _ in keys])  # noqa: E731
    examples = cached_examples(captions, codes, shown, order, config)  # type: ignore[arg-type]
    batches = [next(examples)[1] for _ in range(updates)]
    if config.augmented_share:
        assert {0, 1} <= set(torch.cat(batches)[:, 0].tolist())
    return [(batch[:, 0] == 9).float().mean().item() for batch in batches]


def test_a_share_of_the_examples_is_augmented_or_only_the_early_ones() -> None:
    assert set(shares(CodesConfig("cached", 2))) == {0.0}
    mixed = shares(CodesConfig("cached", 2, augmented_share=0.25))
    assert sum(mixed) / len(mixed) == pytest.approx(0.75, abs=0.03)
    assert set(shares(CodesConfig("cached", 2, augmented_share=0.0))) == {1.0}
    early = shares(CodesConfig("cached", 2, augmented_updates=40))
    assert set(early[:40]) == {0.0}
    assert set(early[40:]) == {1.0}


def test_a_resumed_order_has_the_same_encodings() -> None:
    config = CodesConfig("cached", 2, augmented_share=0.5, augmented_updates=7)
    codes = torch.tensor([0, 1, 9]).view(1, -1, 1).expand(64, -1, 4)

    def batches(start: int) -> list[list[int]]:
        order = Shuffled(64, 32, seed=3, start=start)
        captions = lambda keys: torch.tensor([index for index, _ in keys])  # noqa: E731
        examples = cached_examples(captions, codes, torch.arange(64), order, config)  # type: ignore[arg-type]
        return [next(examples)[1][:, 0].tolist() for _ in range(10 - start)]

    assert batches(0)[5:] == batches(5)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"augmented_share": 1.5}, "codes.augmented_share is 1.5"),
        ({"augmented_updates": -1}, "codes.augmented_updates is -1"),
        ({"augmented_share": 0.5}, "need codes.mode=cached"),
    ],
)
def test_impossible_shares_are_one_line(change: dict[str, float], named: str) -> None:
    with pytest.raises(UserError, match=named):
        validate_all(CodesConfig(**change), "codes")  # type: ignore[arg-type]


def test_embeddings_start_in_one_place() -> None:
    with pytest.raises(UserError, match="codebook_init and init"):
        TrainDALLE(codebook_init=True, init="models/emoji").validate()


def test_a_grown_decoder_shows_the_same_images_and_all_of_it_learns(tmp_path: Path) -> None:
    tokenizer = tiny_tokenizer("dvae")
    assert isinstance(tokenizer, DiscreteVAE)
    images = torch.rand(2, 3, 16, 16)
    before, codes = tokenizer.reconstruct(images), tokenizer.encode(images)
    grown = grow(tokenizer, [3, 1, 2]).eval()
    assert torch.equal(grown.encode(images), codes)
    torch.testing.assert_close(grown.reconstruct(images), before)
    assert sum(p.numel() for p in grown.parameters()) > sum(
        p.numel() for p in tokenizer.parameters()
    )
    grown.train().requires_grad_(True)
    grown.loss(images, 0).total.backward()
    last = grown.decoder.get_parameter("blocks.group_1.block_3.res_path.conv_4.w")
    assert last.grad is not None
    assert last.grad.abs().sum() > 0
    with pytest.raises(UserError, match=r"the decoder has \[3, 1, 2\]"):
        grow(grown, [2, 1, 2])
    with pytest.raises(UserError, match="write at least as many"):
        grow(grown, [3, 1])


def test_growing_by_the_command(tmp_path: Path, run_script: Callable[..., Any]) -> None:
    for kind in ("dvae", "vqgan"):
        tokenizer = tiny_tokenizer(kind)
        saved = SavedTokenizer(kind, tokenizer.config)  # type: ignore[attr-defined]
        save_tokenizer(tmp_path / kind, tokenizer, saved)
    grown = ["--blocks", "2", "1", "1"]
    status, _, error = run_script(grow_decoder.main, tmp_path / "dvae", tmp_path / "out", *grown)
    assert status == 0, error
    assert load_tokenizer(tmp_path / "out")[1].model.network.decoder_blocks == [2, 1, 1]
    status, _, error = run_script(grow_decoder.main, tmp_path / "vqgan", tmp_path / "no", *grown)
    assert status == 2
    assert "is no dVAE: only a dVAE's decoder can grow" in error
    assert not (tmp_path / "no").exists()


def test_a_grown_transformer_computes_the_same_and_all_of_it_learns() -> None:
    model = build(depth=3)
    grown = grow_transformer.grow(model, 6)
    tokens, codes = inputs(model)
    before, after = model(tokens, codes), grown(tokens, codes)
    torch.testing.assert_close(after.image, before.image)
    torch.testing.assert_close(after.text, before.text)
    after.total.backward()
    for block in grown.blocks:
        gradient = block.get_parameter("mlp_out.weight").grad
        assert gradient is not None
        assert gradient.abs().sum() > 0
    with pytest.raises(UserError, match="paper's order"):
        grow_transformer.grow(build(layers=["row", "conv"]), 3)


@pytest.mark.parametrize(("old", "new"), [(3, 4), (6, 10), (5, 6), (1, 7)])
def test_a_grown_transformers_layers_keep_their_patterns(old: int, new: int) -> None:
    before, after = paper_layers(old), paper_layers(new)
    kept = grow_transformer.places(before, after)
    assert [after[i] for i in kept] == before
    assert kept == sorted(set(kept))
    assert kept[-1] == new - 1


def test_layers_that_do_not_stand_in_the_new_order_are_refused() -> None:
    with pytest.raises(UserError, match="write a larger depth"):
        grow_transformer.places(["conv", "row", "conv"], ["row", "column", "conv"])


def test_growing_a_transformer_by_the_command(
    tmp_path: Path, toy: Path, run_script: Callable[..., Any]
) -> None:
    depth = load_text_to_image(toy).transformer.config.depth
    arguments = [toy, tmp_path / "out", "--depth", depth + 2]
    status, _, error = run_script(grow_transformer.main, *arguments)
    assert status == 0, error
    grown = load_text_to_image(tmp_path / "out")
    assert grown.transformer.config.depth == depth + 2
    codes = [m.generate("a red circle").codes for m in (load_text_to_image(toy), grown)]
    assert torch.equal(*codes)
    status, _, error = run_script(grow_transformer.main, toy, tmp_path / "no", "--depth", depth)
    assert status == 2
    assert f"has {depth} layers; write more" in error
    assert not (tmp_path / "no").exists()


def test_a_split_codebook_has_each_code_twice(
    tmp_path: Path, run_script: Callable[..., Any]
) -> None:
    tokenizer = tiny_tokenizer("dvae")
    saved = SavedTokenizer("dvae", tokenizer.config, "float32")  # type: ignore[attr-defined]
    save_tokenizer(tmp_path / "dvae", tokenizer, saved)
    arguments = [tmp_path / "dvae", tmp_path / "out", "--apart", "0"]
    status, _, error = run_script(split_codebook.main, *arguments)
    assert status == 0, error
    split, config = load_tokenizer(tmp_path / "out")
    assert config.model.codebook_size == split.vocab_size == 24
    images = torch.rand(3, 3, 16, 16)
    codes = tokenizer.encode(images)
    assert torch.equal(split.encode(images) % 12, codes)
    for half in (codes, codes + 12):
        torch.testing.assert_close(split.decode(half), tokenizer.decode(codes))
