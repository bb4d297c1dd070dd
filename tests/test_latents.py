"""Latents that an optimiser may move: every tokenizer's rounding and its gradient."""

from typing import Any

import pytest
import torch

from dalle_base.common.errors import UserError
from dvae.config import DVAEConfig, NetworkConfig
from dvae.model import DiscreteVAE
from dvae.tokenizer import ImageTokenizer
from dvae.vqgan.config import NetworkConfig as VQGANNetworkConfig
from dvae.vqgan.config import VQGANConfig
from dvae.vqgan.model import VQGAN
from dvae.vqgan.quantisers import QUANTISERS

KINDS = ["dvae", *QUANTISERS]


def tokenizer(kind: str) -> ImageTokenizer:
    torch.manual_seed(0)
    if kind == "dvae":
        network = NetworkConfig(width=8, groups=2, norm="none", attention=False)
        return DiscreteVAE(
            DVAEConfig(image_size=24, grid=12, codebook_size=30, network=network)
        ).eval()
    network = VQGANNetworkConfig(
        width=8,
        multipliers=[1, 2],
        attention_levels=[],
        blocks=1,
        z_channels=8,
        code_width=6,
        norm_groups=4,
    )
    options: dict[str, Any] = {"fsq": {"levels": [5, 3, 2]}} if kind == "fsq" else {}
    config = VQGANConfig(
        image_size=24,
        grid=12,
        codebook_size=30,
        quantiser=kind,
        quantiser_options=options,
        network=network,
    )
    model = VQGAN(config).eval()
    if hasattr(model.quantiser, "codebook"):
        torch.nn.init.normal_(model.quantiser.codebook)  # type: ignore[arg-type]
    return model


def codes_for(model: ImageTokenizer, rows: int, columns: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randint(model.vocab_size, (3, rows, columns), generator=generator)


@pytest.mark.parametrize("kind", KINDS)
def test_latents_of_codes_are_drawn_as_the_codes_are(kind: str) -> None:
    model = tokenizer(kind)
    codes = torch.arange(model.vocab_size).repeat(3, 60)[:, : model.rows * model.columns]
    codes = codes.view(3, model.rows, model.columns)
    drawn = model.draw_latents(model.latents(codes))
    assert torch.equal(drawn.codes, codes)
    torch.testing.assert_close(drawn.images.clamp(0, 1), model.decode(codes))


@pytest.mark.parametrize("kind", KINDS)
def test_another_grid_makes_an_image_of_another_size(kind: str) -> None:
    model = tokenizer(kind)
    scale = model.image_size // model.rows
    drawn = model.draw_latents(model.latents(codes_for(model, 7, model.columns + 3)))
    assert drawn.images.shape == (3, 3, 7 * scale, (model.columns + 3) * scale)


@pytest.mark.parametrize("kind", KINDS)
def test_following_the_gradient_brings_the_image_nearer_and_changes_codes(kind: str) -> None:
    model = tokenizer(kind)
    goal = model.decode(codes_for(model, model.rows, model.columns))
    start = torch.zeros(3, model.rows, model.columns, dtype=torch.long)
    latents = model.latents(start).clone().requires_grad_()
    optimiser = torch.optim.Adam([latents], 0.1)
    losses = []
    for _ in range(60):
        drawn = model.draw_latents(latents)
        loss = (drawn.images - goal).square().mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        with torch.no_grad():
            model.limit_latents(latents)
        losses.append(loss.item())
    assert min(losses) < 0.9 * losses[0]
    assert (drawn.codes != start).float().mean() > 0.3


def test_limits_are_the_codebooks_own_range_of_each_channel() -> None:
    model = tokenizer("ema")
    codebook = model.codebook()
    latents = torch.randn(2, 6, 3, 4) * 100
    model.limit_latents(latents)
    assert torch.equal(latents.amax(dim=(0, 2, 3)), codebook.amax(dim=0))
    assert torch.equal(latents.amin(dim=(0, 2, 3)), codebook.amin(dim=0))


def test_steps_are_measured_in_the_spread_of_the_codes() -> None:
    model = tokenizer("vq")
    one = model.latent_unit()
    model.quantiser.codebook.data.mul_(7).add_(3)  # type: ignore[operator,union-attr]
    assert one == pytest.approx(1, abs=0.2)
    assert model.latent_unit() == pytest.approx(7 * one)
    assert tokenizer("dvae").latent_unit() == 1


def test_cosine_latents_come_back_to_length_one() -> None:
    latents = torch.randn(2, 8, 3, 4) * 100
    tokenizer("cosine").limit_latents(latents)
    torch.testing.assert_close(latents.norm(dim=1), torch.ones(2, 3, 4))


@pytest.mark.parametrize("kind", KINDS)
def test_drawing_latents_changes_nothing_of_a_model_in_training(kind: str) -> None:
    model = tokenizer(kind).train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    latents = model.latents(codes_for(model, model.rows, model.columns)).requires_grad_()
    first, again = (model.draw_latents(latents).images for _ in range(2))
    assert torch.equal(first, again)
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name]), name


def test_a_tokenizer_without_a_gradient_says_so() -> None:
    class Table(ImageTokenizer):
        encode = decode = loss = None  # type: ignore[assignment]

    Table.__abstractmethods__ = frozenset()
    with pytest.raises(UserError, match="Table cannot be differentiated through"):
        Table().latents(torch.zeros(1, 2, 2, dtype=torch.long))  # type: ignore[abstract]
