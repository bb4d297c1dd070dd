"""The dVAE: likelihood, networks, loss, schedules, measurements."""

import math
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch

from dalle_base.common.errors import UserError
from dvae.config import DVAEConfig, NetworkConfig, ObjectiveConfig
from dvae.likelihood import BEST_LN_B, LIKELIHOODS, logit_laplace_nll
from dvae.metrics import code_usage, decibels, measure, squared_error
from dvae.model import DiscreteVAE
from dvae.networks import Block, Decoder, Encoder, map_pixels, unmap_pixels
from dvae.objective import gumbel_softmax


def small(**objective: object) -> DVAEConfig:
    network = NetworkConfig(width=8, groups=3, blocks=1, decoder_init=8)
    return DVAEConfig(16, 4, 12, network, ObjectiveConfig(**objective))  # type: ignore[arg-type]


def test_the_likelihood_integrates_to_one() -> None:
    x = torch.linspace(1e-5, 1 - 1e-5, 400_001, dtype=torch.float64)
    for mu, ln_b in [(0.0, 0.0), (1.3, -1.0), (-2.0, 0.4)]:
        parameters = (torch.tensor(value, dtype=torch.float64) for value in (mu, ln_b))
        density = (-logit_laplace_nll(x, *parameters)).exp()
        assert torch.trapezoid(density, x).item() == pytest.approx(1, abs=2e-3)


def test_the_pixel_map_is_the_papers_and_inverts() -> None:
    x = torch.tensor([0.0, 0.5, 1.0])
    assert torch.allclose(map_pixels(x), torch.tensor([0.1, 0.5, 0.9]))
    assert torch.allclose(unmap_pixels(map_pixels(x)), x, atol=1e-6)


def test_paper_networks_have_the_releases_tensors() -> None:
    with torch.device("meta"):
        encoder, decoder = (net(NetworkConfig(), 8192) for net in (Encoder, Decoder))
    assert len(encoder.state_dict()) == 74
    assert len(decoder.state_dict()) == 76
    kernels = [
        encoder.state_dict()[f"blocks.group_2.block_1.res_path.conv_{i}.w"].shape
        for i in range(1, 5)
    ]
    assert kernels == [(128, 256, 3, 3), (128, 128, 3, 3), (128, 128, 3, 3), (512, 128, 1, 1)]
    assert decoder.state_dict()["blocks.group_1.block_1.res_path.conv_1.w"].shape[-1] == 1
    assert encoder.state_dict()["blocks.input.w"].shape == (256, 3, 7, 7)


def test_a_block_adds_its_branch_with_the_papers_gain() -> None:
    config = NetworkConfig(width=8, groups=4, blocks=2)
    block = Block(config, 8, 8, (3, 3, 3, 1))
    x = torch.randn(2, 8, 5, 5)
    assert torch.allclose(block(x) - x, block.res_path(x) / 64, atol=1e-6)


def test_convolutions_start_with_the_releases_variance() -> None:
    torch.manual_seed(0)
    weight = Encoder(NetworkConfig(width=64), 16).state_dict()[
        "blocks.group_3.block_2.res_path.conv_2.w"
    ]
    assert weight.std().item() == pytest.approx(1 / math.sqrt(64 * 9), rel=0.05)


@pytest.mark.parametrize(
    ("stride", "norm", "attention"), [(1, "none", False), (2, "group", True), (4, "group", False)]
)
def test_every_network_option_builds_the_grid_it_says(
    stride: int, norm: str, attention: bool
) -> None:
    network = NetworkConfig(8, 2, 1, 4, 8, stride, norm, 4, attention)
    side = 4 * network.downsampling
    model = DiscreteVAE(DVAEConfig(side, 4, 12, network))
    images = torch.rand(2, 3, side, side)
    assert model.encode(images).shape == (2, 4, 4)
    assert model.reconstruct(images).shape == images.shape


def test_the_loss_is_the_negative_elbo_over_all_pixel_values() -> None:
    """Against the sums written out from appendix A.3, with β and τ at their final values."""
    torch.manual_seed(0)
    model = DiscreteVAE(small(temperature_end=0.5))
    images = torch.rand(3, 3, 16, 16)
    torch.manual_seed(1)
    total = model.loss(images, step=10**6).total
    torch.manual_seed(1)
    logits = model.encoder(map_pixels(images))
    maps = model.decoder(gumbel_softmax(logits, 0.5))
    expected = 0.0
    for i in range(3):
        nll = logit_laplace_nll(map_pixels(images[i]), maps[i, :3], maps[i, 3:]).sum()
        q = logits[i].softmax(0)
        kl = (q * (q * 12).log()).sum()
        expected += (nll + 6.6 * kl) / (3 * 16 * 16) / 3
    assert torch.allclose(total, torch.as_tensor(expected), rtol=1e-5)


def test_gumbel_noise_samples_the_categorical_distribution() -> None:
    """The Gumbel-max trick: the largest entry falls on each code as often as its probability."""
    torch.manual_seed(0)
    p = torch.tensor([0.5, 0.3, 0.15, 0.05])
    logits = p.log().view(1, 4, 1, 1).expand(20_000, 4, 1, 1)
    sampled = gumbel_softmax(logits, 0.7).argmax(dim=1).flatten()
    assert torch.allclose(torch.bincount(sampled, minlength=4) / 20_000, p, atol=0.015)


def test_schedules_follow_the_paper() -> None:
    model = DiscreteVAE(small())
    images = torch.rand(1, 3, 16, 16)
    at = {step: model.loss(images, step).metrics for step in (0, 2500, 5000, 75_000, 150_000)}
    assert at[0]["kl_weight"] == 0
    assert at[2500]["kl_weight"] == pytest.approx(3.3)
    assert at[5000]["kl_weight"] == pytest.approx(6.6)
    assert at[0]["temperature"] == 1
    assert at[75_000]["temperature"] == pytest.approx((1 + 1 / 16) / 2)
    assert at[150_000]["temperature"] == 1 / 16


def test_entropy_term_pulls_towards_more_codes() -> None:
    """Its gradient alone, followed for a few steps, raises the marginal entropy of the codes."""
    torch.manual_seed(0)
    model = DiscreteVAE(small(entropy_weight=1000.0, kl_weight=0.0, logit_scale=8.0))
    images = torch.rand(4, 3, 16, 16)
    optimiser = torch.optim.Adam(model.encoder.parameters(), lr=1e-3)
    before = float(model.loss(images, 0).metrics["soft_perplexity"])
    for _ in range(10):
        optimiser.zero_grad()
        model.loss(images, 0).total.backward()
        optimiser.step()
    assert float(model.loss(images, 0).metrics["soft_perplexity"]) > before * 1.1


def test_a_constant_scale_leaves_ln_b_without_gradient() -> None:
    model = DiscreteVAE(small(scale="constant"))
    model.loss(torch.rand(2, 3, 16, 16), 0).total.backward()
    weight = model.decoder.blocks.output.conv.w.grad  # type: ignore[union-attr]
    assert weight[:3].abs().sum() > 0  # type: ignore[index]
    assert weight[3:].abs().sum() == 0  # type: ignore[index]
    late = DiscreteVAE(small(scale_learned_after=5))
    late.loss(torch.rand(2, 3, 16, 16), 5).total.backward()
    assert late.decoder.blocks.output.conv.w.grad[3:].abs().sum() > 0  # type: ignore[union-attr,index]


@pytest.mark.parametrize("likelihood", list(LIKELIHOODS))
def test_the_scale_of_an_image_is_its_most_likely_one(likelihood: str) -> None:
    generator = torch.Generator().manual_seed(0)
    mapped = map_pixels(torch.rand(3, 3, 5, 7, generator=generator))
    mu = torch.randn(3, 3, 5, 7, generator=generator) * torch.tensor([0.1, 1, 3]).view(3, 1, 1, 1)
    best = BEST_LN_B[likelihood](mapped, mu)

    def nll(ln_b: torch.Tensor) -> torch.Tensor:
        return LIKELIHOODS[likelihood](mapped, mu, ln_b).mean(dim=(1, 2, 3))

    assert best.shape == (3, 1, 1, 1)
    assert (nll(best) < nll(best + 0.05)).all()
    assert (nll(best) < nll(best - 0.05)).all()


def test_a_perfect_image_has_a_finite_loss() -> None:
    mapped = torch.full((1, 3, 4, 4), 0.5)
    for likelihood, best_ln_b in BEST_LN_B.items():
        ln_b = best_ln_b(mapped, torch.zeros_like(mapped))
        assert LIKELIHOODS[likelihood](mapped, torch.zeros_like(mapped), ln_b).isfinite().all()


def test_the_scale_of_an_image_weighs_images_by_their_inverse_error() -> None:
    """So the gradient is that of the mean logarithm of the squared errors: of the mean PSNR."""
    objective = {"likelihood": "gaussian", "scale": "image", "kl_weight": 0.0}
    model = DiscreteVAE(small(**objective, decoder_only=True))
    images = torch.rand(3, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    images[0] = images[0] * 0.1 + 0.45  # an easy image beside harder ones
    weight = model.decoder.blocks.get_submodule("output.conv").get_parameter("w")
    model.loss(images, 0).total.backward()
    got = weight.grad
    assert got is not None
    hard = model.encode(images)
    maps = model.decoder(torch.nn.functional.one_hot(hard, 12).movedim(-1, 1).float())
    errors = (map_pixels(images) - torch.sigmoid(maps[:, :3])).square().mean(dim=(1, 2, 3))
    (expected,) = torch.autograd.grad(0.5 * errors.log().mean(), weight)
    torch.testing.assert_close(got, expected)


def test_beta_nll_of_one_undoes_the_weight_of_the_scale() -> None:
    """With β = 1 the gradient with respect to μ no longer depends on b (up to its sign)."""
    torch.manual_seed(0)
    config = small(beta_nll=1.0, kl_weight=0.0)
    model = DiscreteVAE(config)
    images = torch.rand(2, 3, 16, 16)
    grads = []
    for shift in (0.0, 2.0):
        with torch.no_grad():
            model.decoder.blocks.output.conv.b[3:] = shift  # type: ignore[union-attr,index]
        model.zero_grad()
        torch.manual_seed(1)
        model.loss(images, 0).total.backward()
        grads.append(model.decoder.blocks.output.conv.b.grad[:3].clone())  # type: ignore[union-attr,index]
    assert torch.allclose(*grads, rtol=1e-4)


def test_straight_through_decodes_one_hot_samples() -> None:
    seen = []
    model = DiscreteVAE(small(straight_through=True))
    model.decoder.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    model.loss(torch.rand(2, 3, 16, 16), 0)
    assert torch.allclose(seen[0].max(dim=1).values, torch.ones(2, 4, 4))


def test_decoder_only_training_keeps_the_codes() -> None:
    model = DiscreteVAE(small(decoder_only=True))
    model.loss(torch.rand(2, 3, 16, 16), 0).total.backward()
    assert all(p.grad is None for p in model.encoder.parameters())
    assert all(p.grad is not None for p in model.decoder.parameters())


def test_psnr_and_usage() -> None:
    images = torch.zeros(1, 3, 4, 4)
    assert decibels(squared_error(images, images + 0.1)).item() == pytest.approx(20, abs=1e-3)
    usage = code_usage(torch.tensor([[0, 0], [1, 1]]), 8)
    assert usage["perplexity"] == pytest.approx(2)
    assert usage["codes_used"] == 0.25


def test_measure_uses_hard_codes_of_all_images() -> None:
    torch.manual_seed(0)
    model = DiscreteVAE(small()).eval()
    images = list(np.random.default_rng(0).integers(0, 256, (5, 3, 16, 16), dtype=np.uint8))
    whole = measure(model, images)
    assert measure(model, images, batch_size=2) == pytest.approx(whole)
    pixels = torch.from_numpy(np.stack(images)).float() / 255
    assert whole["psnr"] == pytest.approx(
        decibels(squared_error(pixels, model.reconstruct(pixels))).mean().item()
    )


def test_an_impossible_grid_names_the_key_and_the_fix() -> None:
    with pytest.raises(UserError, match=r"model\.grid=8.*model\.image_size=32"):
        DiscreteVAE(DVAEConfig(16, 8, 12, NetworkConfig(width=8, groups=3)))


def test_the_decoder_may_have_more_blocks_than_the_encoder() -> None:
    network = NetworkConfig(width=8, groups=3, blocks=1, decoder_init=8, decoder_blocks=[1, 2, 3])
    model = DiscreteVAE(DVAEConfig(16, 4, 5, network))
    groups = [model.decoder.get_submodule(f"blocks.group_{g}").modules() for g in (1, 2, 3)]
    counts = [sum(isinstance(module, Block) for module in group) for group in groups]
    assert counts == [1, 2, 3]
    assert model.reconstruct(torch.rand(2, 3, 16, 16)).shape == (2, 3, 16, 16)
    for wrong in ([1, 2], [1, 0, 2]):
        with pytest.raises(UserError, match=r"model\.network\.decoder_blocks is"):
            DiscreteVAE(DVAEConfig(16, 4, 5, replace(network, decoder_blocks=wrong)))


def test_hidden_weights_are_all_convolutions_but_those_at_pixels_and_codes() -> None:
    tokenizer = DiscreteVAE(small())
    hidden = {id(p) for p in tokenizer.hidden_weights()}
    names = [name for name, p in tokenizer.named_parameters() if id(p) in hidden]
    assert len(names) == len(hidden)
    others = {name for name, p in tokenizer.named_parameters() if p.ndim == 4} - set(names)
    assert others == {
        f"{network}.blocks.{end}.w"
        for network in ("encoder", "decoder")
        for end in ("input", "output.conv")
    }


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler")
@pytest.mark.filterwarnings("ignore::DeprecationWarning:torch")
@pytest.mark.filterwarnings("ignore::UserWarning:torch")
def test_a_compiled_decoder_passes_on_the_gradient_of_an_eager_one_in_bfloat16() -> None:
    torch.manual_seed(0)
    tokenizer = DiscreteVAE(DVAEConfig(16, 8, 64, NetworkConfig(32, 2, 1, 2, 32, attention=True)))
    codes = torch.randn(4, 64, 8, 8).softmax(dim=1).contiguous(memory_format=torch.channels_last)
    gradients = []
    for compiled in (False, True):
        if compiled:
            tokenizer.compile_networks()
        sample = codes.clone().requires_grad_()
        with torch.autocast("cpu", torch.bfloat16):
            maps = tokenizer.decoder(sample).float()
        (maps * torch.linspace(-1, 1, maps.numel()).view_as(maps)).sum().backward()
        gradients.append(sample.grad)
    plain, fast = gradients
    assert (plain - fast).norm() < 0.1 * plain.norm()
