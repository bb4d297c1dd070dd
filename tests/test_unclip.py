"""DALL-E 2 in small: diffusion, prior, decoder, their folders, training and sampling."""

import json
import math
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from builders import weightless
from diffusers.models.attention_processor import AttnProcessor, AttnProcessor2_0
from PIL import Image
from rankers import log_lines, plain, untrained
from tiny_runs import arguments_of

import evaluate
import sample as sample_script
import train_decoder
import train_prior
from dalle_base.common.config import load_config
from dalle_base.common.errors import UserError
from dalle_base.common.images import to_array, to_image, to_tensor
from dalle_evaluation.judge_options import Judging
from dalle_evaluation.judged_cases import KNOWN, Case, Exam
from dalle_evaluation.judged_models import Judge
from dalle_evaluation.unclip import judge_group
from dual_encoder.checkpoint import read_config, save_dual_encoder
from dual_encoder.config import DualEncoderConfig
from dual_encoder.ranker import Ranker
from unclip.checkpoint import (
    load_decoder,
    load_prior,
    make_decoder,
    make_prior,
    save_decoder,
    save_prior,
    save_unclip,
)
from unclip.config import DecoderConfig, NoiseConfig, PriorConfig, UnclipSampling
from unclip.decoder import Condition, Decoder, shown
from unclip.diffusion import denoise, diffusion_loss, guided, signal_shares, variance_bound
from unclip.metrics import measure_decoder, measure_prior
from unclip.model import Unclip, load_unclip, slerp
from unclip.prior import Prior
from unclip.reading import embed_images, read_captions, scaled, unscaled
from unclip.request import parse_unclip_requests

PREDICTIONS = ["sample", "epsilon", "v_prediction"]
CAPTIONS = ["a red thing", "blue"]
FEW = UnclipSampling(prior_steps=3, steps=3)
Script = Callable[..., tuple[int, str, str]]


def prior(encoder: Ranker, **changes: Any) -> Prior:
    torch.manual_seed(1)
    config = PriorConfig(layers=2, heads=2, head_width=8, **changes)
    made = make_prior(config, encoder.model.config).eval()
    with torch.no_grad():  # as if trained: nothing is at its first value
        for parameter in made.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return made.requires_grad_(False)


def decoder(encoder: Ranker, **changes: Any) -> Decoder:
    torch.manual_seed(2)
    settings: dict[str, Any] = {
        "image_size": 16,
        "patch": 2,
        "channels": [8, 16],
        "blocks": 1,
        "attention": [1],
        "head_width": 8,
        "context_width": 8,
        "norm_groups": 4,
        "noise": NoiseConfig(prediction="v_prediction"),
        **changes,
    }
    made = make_decoder(DecoderConfig(**settings), encoder.model.config).eval()
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    return made.requires_grad_(False)


def unclip() -> Unclip:
    encoder = untrained()
    return Unclip(encoder, prior(encoder), decoder(encoder), FEW)


def none(count: int) -> torch.Tensor:
    return torch.zeros(count, dtype=torch.bool)


def test_the_cosine_schedule_is_the_papers() -> None:
    """ᾱ(t) = cos²((t/T + 0.008)/1.008 · π/2), up to its value at 0 (arXiv 2102.09672)."""
    products = signal_shares(NoiseConfig(steps=1000))
    for step in (0, 10, 499, 900):
        at = [math.cos((t + 0.008) / 1.008 * math.pi / 2) ** 2 for t in ((step + 1) / 1000, 0)]
        assert products[step].item() == pytest.approx(at[0] / at[1], rel=1e-3)


@pytest.mark.parametrize("prediction", PREDICTIONS)
def test_the_loss_is_zero_for_what_was_added_and_its_square_otherwise(prediction: str) -> None:
    config = NoiseConfig(steps=50, prediction=prediction)
    shares = signal_shares(config)
    clean, noise = torch.randn(2, 3, 4, dtype=torch.float64).unbind()
    steps = torch.tensor([0, 20, 49])
    share = shares.double()[steps][:, None]
    right = {
        "sample": clean,
        "epsilon": noise,
        "v_prediction": share.sqrt() * noise - (1 - share).sqrt() * clean,
    }[prediction]
    seen = []

    def predict(noisy: torch.Tensor, at: torch.Tensor) -> torch.Tensor:
        seen.append(noisy)
        return right + 0.5

    losses = diffusion_loss(config, shares, predict, clean, steps, noise)
    torch.testing.assert_close(losses, torch.full((3,), 0.25), check_dtype=False)
    torch.testing.assert_close(
        seen[0], share.sqrt() * clean + (1 - share).sqrt() * noise, check_dtype=False
    )


def test_the_bound_is_that_of_its_definition() -> None:
    """Against divergences of Gaussians whose moments come from Bayes' rule, step by step."""
    config = NoiseConfig(steps=20, variance="learned")
    products = signal_shares(config).double()
    clean = torch.rand(3, 2, 5, dtype=torch.float64) * 2 - 1
    noise, error = torch.randn(2, 3, 2, 5, dtype=torch.float64).unbind()
    spread = torch.rand(3, 2, 5, dtype=torch.float64) * 2 - 1
    steps = torch.tensor([0, 1, 13])
    share = products[steps][:, None, None]
    noisy = share.sqrt() * clean + (1 - share).sqrt() * noise
    predicted = noise + 0.1 * error
    original = (noisy - (1 - share).sqrt() * predicted) / share.sqrt()
    found = variance_bound(products, clean, noisy, original, spread, steps)
    for row, t in enumerate(steps.tolist()):
        now, before = products[t], products[t - 1] if t else torch.tensor(1.0).double()
        alpha = now / before
        log_beta = (1 - alpha).log()

        def moments(start: torch.Tensor, row: int = row) -> tuple[torch.Tensor, torch.Tensor]:
            # Before the step N(√before·x_0, 1 - before), by the step N(√α·x, 1 - α).
            precision = 1 / (1 - before) + alpha / (1 - alpha)  # noqa: B023
            pull = before.sqrt() * start / (1 - before)  # noqa: B023
            pull = pull + alpha.sqrt() * noisy[row] / (1 - alpha)  # noqa: B023
            return pull / precision, 1 / precision

        start = (noisy[row] - (1 - now).sqrt() * predicted[row]) / now.sqrt()
        start = start.clamp(-1, 1)
        share = (spread[row] + 1) / 2
        if t:
            (mean, variance), (own, _) = moments(clean[row]), moments(start)
            log_variance = share * log_beta + (1 - share) * variance.log()
            expected = torch.distributions.kl_divergence(
                torch.distributions.Normal(mean, variance.sqrt().expand_as(mean)),
                torch.distributions.Normal(own, (log_variance / 2).exp()),
            )
        else:
            first = (1 - products[0]) / (1 - products[1]) * (1 - products[1] / products[0])
            log_variance = share * log_beta + (1 - share) * first.log()
            normal = torch.distributions.Normal(start, (log_variance / 2).exp())
            expected = -normal.log_prob(clean[row])
        assert found[row].item() == pytest.approx(expected.mean().item() / math.log(2), rel=1e-4)


def test_the_bound_trains_the_variance_and_the_square_the_rest() -> None:
    config = NoiseConfig(steps=20, variance="learned", bound_weight=0.5)
    out = torch.randn(2, 6, 4, requires_grad=True)
    clean, noise = torch.randn(2, 2, 3, 4).unbind()
    steps = torch.tensor([3, 9])
    loss = diffusion_loss(config, signal_shares(config), lambda *_: out, clean, steps, noise)
    loss.sum().backward()
    assert out.grad is not None
    expected = 2 * (out.detach()[:, :3] - noise) / noise[0].numel()
    torch.testing.assert_close(out.grad[:, :3], expected)
    assert (out.grad[:, 3:] != 0).all()


@pytest.mark.parametrize("prediction", PREDICTIONS)
@pytest.mark.parametrize("eta", [0.0, 1.0])
def test_a_network_that_knows_the_data_leads_back_to_it(prediction: str, eta: float) -> None:
    config = NoiseConfig(prediction=prediction)
    products = signal_shares(config)
    clean = torch.rand(2, 3, 4) * 2 - 1

    def predict(noisy: torch.Tensor, at: torch.Tensor) -> torch.Tensor:
        share = products[at][:, None, None]
        noise = (noisy - share.sqrt() * clean) / (1 - share).sqrt()
        v = share.sqrt() * noise - (1 - share).sqrt() * clean
        return {"sample": clean, "epsilon": noise, "v_prediction": v}[prediction]

    noises = torch.randn(7, 2, 3, 4)
    *_, last = denoise(config, predict, torch.randn(2, 3, 4), 7, eta, lambda k: noises[k], limit=1)
    torch.testing.assert_close(last, clean, atol=1e-4, rtol=1e-4)


def test_steps_back_have_the_posteriors_moments() -> None:
    """With eta 1 and all steps, one is a draw of q(x_{t-1} | x_t, x_0) (DDPM)."""
    config = NoiseConfig(steps=8, prediction="sample")
    products = signal_shares(config)
    clean, start = torch.full((4000, 1), 0.7), torch.full((4000, 1), -0.4)
    noises = torch.randn(8, 4000, 1, generator=torch.Generator().manual_seed(0))
    first = next(denoise(config, lambda *_: clean, start, 8, 1.0, lambda k: noises[k]))
    now, before = products[7], products[6]
    alpha = now / before
    mean = before.sqrt() * (1 - alpha) / (1 - now) * 0.7
    mean = mean + alpha.sqrt() * (1 - before) / (1 - now) * -0.4
    variance = (1 - before) / (1 - now) * (1 - alpha)
    assert first.mean().item() == pytest.approx(mean.item(), abs=0.05)
    assert first.var().item() == pytest.approx(variance.item(), rel=0.08)


@pytest.mark.parametrize("steps", [1, 7, 33, 1000, 5000])
def test_the_steps_of_sampling_begin_in_noise_and_go_down(steps: int) -> None:
    seen = []

    def predict(noisy: torch.Tensor, at: torch.Tensor) -> torch.Tensor:
        seen.append(int(at[0]))
        return noisy

    list(denoise(NoiseConfig(), predict, torch.zeros(1, 2), steps))
    assert seen[0] == 999
    assert len(seen) == min(steps, 1000)
    assert sorted(set(seen), reverse=True) == seen
    assert seen[-1] >= 0


def test_guidance_goes_on_beyond_the_condition_and_leaves_variances_alone() -> None:
    def predict(noisy: torch.Tensor, _: torch.Tensor) -> torch.Tensor:
        half = len(noisy) // 2
        with_it = torch.arange(4.0).view(1, 4, 1).expand(half, 4, 2)
        return torch.cat([with_it, torch.ones_like(with_it)])

    data, steps = torch.zeros(3, 2, 2), torch.zeros(3, dtype=torch.long)
    both = guided(predict, 3.0, variance=False)(data, steps)
    assert both[:, :, 0].tolist() == [[1 + 3 * (k - 1) for k in range(4)]] * 3
    mean = guided(predict, 3.0, variance=True)(data, steps)
    assert mean[:, :, 0].tolist() == [[-2, 1, 2, 3]] * 3


def test_a_dropped_caption_is_not_seen_by_the_prior() -> None:
    encoder = untrained()
    model = prior(encoder)
    noisy, steps = torch.randn(2, 12), torch.tensor([3, 700])
    texts = [read_captions(encoder, captions) for captions in (CAPTIONS, CAPTIONS[::-1])]
    seen = [model.predict(noisy, steps, text, none(2)) for text in texts]
    hidden = [model.predict(noisy, steps, text, ~none(2)) for text in texts]
    assert not torch.allclose(seen[0], seen[1], atol=1e-3)
    torch.testing.assert_close(hidden[0], hidden[1])
    mixed = model.predict(noisy, steps, texts[0], torch.tensor([True, False]))
    torch.testing.assert_close(mixed, torch.stack([hidden[0][0], seen[0][1]]))


def test_what_lies_behind_a_text_is_not_read() -> None:
    encoder = untrained()
    text = read_captions(encoder, CAPTIONS)
    other = read_captions(encoder, CAPTIONS)
    other.states = torch.where(text.mask[..., None], text.states, 7.0)
    assert not torch.equal(other.states, text.states)
    noisy, steps = torch.randn(2, 12), torch.tensor([3, 700])
    model = prior(encoder)
    found = [model.predict(noisy, steps, each, none(2)) for each in (text, other)]
    torch.testing.assert_close(*found)
    network, data = decoder(encoder), torch.randn(2, 12, 8, 8)
    embedding = scaled(unscaled(torch.randn(2, 12)))
    found = [network.predict(data, steps, shown(embedding, each, True)) for each in (text, other)]
    torch.testing.assert_close(*found)


def test_the_decoder_sees_embedding_and_caption_unless_they_are_dropped() -> None:
    encoder = untrained()
    network = decoder(encoder)
    data, steps = torch.randn(2, 12, 8, 8), torch.tensor([3, 700])
    embedding = scaled(unscaled(torch.randn(2, 12)))
    text, other = (read_captions(encoder, captions) for captions in (CAPTIONS, CAPTIONS[::-1]))

    def predict(image: torch.Tensor, caption: Any, no_image: bool, no_text: bool) -> torch.Tensor:
        no = [none(2) | hidden for hidden in (no_image, no_text)]
        return network.predict(data, steps, Condition(image, caption, *no))

    def same(one: torch.Tensor, two: torch.Tensor) -> bool:
        return torch.allclose(one, two, atol=1e-5)

    first = predict(embedding, text, False, False)
    assert not same(first, predict(-embedding, text, False, False))
    assert not same(first, predict(embedding, other, False, False))
    hidden = predict(embedding, text, True, False)
    assert same(hidden, predict(-embedding, text, True, False))
    assert same(predict(embedding, text, False, True), predict(embedding, other, False, True))
    both = shown(embedding, text, True).with_and_without()
    twice = network.predict(torch.cat([data, data]), torch.cat([steps, steps]), both)
    nothing = predict(-embedding, other, True, True)
    torch.testing.assert_close(twice, torch.cat([first, nothing]), atol=1e-4, rtol=1e-4)


def squared_gradients(network: torch.nn.Module, out: torch.Tensor) -> list[torch.Tensor]:
    wanted = [p for p in network.parameters() if p.requires_grad]
    return list(torch.autograd.grad(out.square().sum(), wanted, allow_unused=True))


@pytest.mark.parametrize("which", ["prior", "decoder"])
def test_fast_attention_is_the_fused_one_in_output_and_gradient(
    which: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoder = untrained()
    text = read_captions(encoder, ["a red thing", "a", "blue"])
    if which == "prior":
        drawing: Any = prior(encoder).double().requires_grad_(True)
        noisy = torch.randn(3, encoder.model.config.embed_dim, dtype=torch.float64)
    else:
        drawing = decoder(encoder).double().requires_grad_(True)
        noisy = torch.randn(3, 12, 8, 8, dtype=torch.float64)
    text = type(text)(text.embedding.double(), text.states.double(), text.mask)
    steps = torch.tensor([0, 400, 999])

    def predicted() -> tuple[torch.Tensor, list[torch.Tensor]]:
        if which == "prior":
            out = drawing.predict(noisy, steps, text, torch.tensor([False, False, True]))
        else:
            seen = Condition(text.embedding, text, none(3), torch.tensor([False, True, False]))
            out = drawing.predict(noisy, steps, seen)
        return out, squared_gradients(drawing, out)

    calls = []
    plain = AttnProcessor.__call__
    monkeypatch.setattr(torch, "is_autocast_enabled", lambda *_: True)  # the precision stays
    monkeypatch.setattr(
        AttnProcessor, "__call__", lambda *a, **b: calls.append(1) or plain(*a, **b)
    )
    fast = predicted()
    assert calls
    drawing.network.set_attn_processor(AttnProcessor2_0())
    fused = predicted()
    torch.testing.assert_close(fast, fused, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("patch", [1, 2, 4])
def test_squares_of_pixels_become_channels_and_back(patch: int) -> None:
    network = decoder(untrained(), patch=patch)
    images = torch.rand(2, 3, 16, 16)
    packed = network.pack(images)
    assert packed.shape == (2, 3 * patch**2, 16 // patch, 16 // patch)
    torch.testing.assert_close(network.unpack(packed), images)
    assert packed.min() < 0


def test_a_learned_variance_takes_as_many_outputs_again() -> None:
    encoder = untrained()
    noise = NoiseConfig(steps=30, variance="learned")
    network = decoder(encoder, noise=noise)
    text, images = read_captions(encoder, CAPTIONS), torch.rand(2, 3, 16, 16)
    condition = shown(embed_images(encoder, images), text, True)
    steps = torch.tensor([0, 9])
    losses = network(images, condition, steps, torch.randn_like(images))
    assert losses.shape == (2,)
    *_, drawn = network.sample(condition, torch.randn(2, 3, 16, 16), 3, guidance=2.0)
    assert drawn.shape == (2, 3, 16, 16)


def test_embeddings_have_a_root_mean_square_of_one_and_are_the_encoders() -> None:
    encoder = untrained()
    images = torch.rand(3, 3, 8, 8)
    embedding = embed_images(encoder, images)
    torch.testing.assert_close(embedding.square().mean(dim=1), torch.ones(3))
    torch.testing.assert_close(unscaled(embedding), encoder.model.encode_image(images))
    text = read_captions(encoder, CAPTIONS)
    torch.testing.assert_close(unscaled(text.embedding), encoder.text_features(CAPTIONS))
    assert embed_images(encoder, torch.rand(1, 3, 20, 20)).shape == (1, 12)


def test_a_damaged_encoder_is_named() -> None:
    encoder = untrained()
    encoder.model.visual.proj.data.fill_(float("nan"))
    with pytest.raises(UserError, match="not finite"):
        embed_images(encoder, torch.rand(1, 3, 8, 8))


def test_a_candidate_is_the_same_image_whatever_the_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    model = unclip()
    every = model.generate(CAPTIONS, candidates=3, seed=5)
    assert every.captions == [CAPTIONS[0]] * 3 + [CAPTIONS[1]] * 3
    assert every.candidates == [0, 1, 2] * 2
    alone = model.generate(CAPTIONS[1], candidates=1, seed=5, first=2)
    difference = pixels(every.images[5]) - pixels(alone.images[0])
    assert difference.abs().max() <= 1
    assert (pixels(every.images[4]) - pixels(every.images[5])).abs().max() > 1
    monkeypatch.setattr("unclip.model.TOGETHER", 2)
    for one, other in zip(model.generate(CAPTIONS, 3, 5).images, every.images, strict=True):
        assert (pixels(one) - pixels(other)).abs().max() <= 1


def pixels(image: Image.Image) -> torch.Tensor:
    return torch.tensor(list(image.tobytes()), dtype=torch.int)


def test_of_the_priors_embeddings_the_one_nearest_to_the_caption_is_kept() -> None:
    model = unclip()
    text = read_captions(model.encoder, CAPTIONS)
    sampling = UnclipSampling(prior_steps=3, embeddings=5)
    noise = model.noises([(0, 0), (0, 1)], sampling)[0]
    chosen = model.embed(text, noise, sampling)
    each = torch.stack(
        [
            model.embed(text, noise[:, k : k + 1], UnclipSampling(prior_steps=3, embeddings=1))
            for k in range(5)
        ]
    )
    near = (each * text.embedding).sum(dim=-1)
    torch.testing.assert_close((chosen * text.embedding).sum(dim=-1), near.max(dim=0).values)


def test_noise_is_normal_and_the_names_own() -> None:
    model = unclip()
    sampling = UnclipSampling(eta=1.0, steps=20)
    prior_noise, start, steps = model.noises([(0, 0), (0, 1), (1, 0)], sampling)
    assert prior_noise.shape == (3, 2, 12)
    assert start.shape == (3, 3, 16, 16)
    assert steps.shape == (3, 20, 3, 16, 16)
    assert steps.isfinite().all()
    assert steps.mean().abs() < 0.02
    assert abs(steps.std() - 1) < 0.02
    assert not torch.allclose(start[0], start[1])
    again = model.noises([(1, 0)], sampling)
    torch.testing.assert_close(again[1][0], start[2])


def test_a_blend_goes_along_the_sphere() -> None:
    one, other = (scaled(unscaled(torch.randn(2, 12))) for _ in range(2))
    torch.testing.assert_close(slerp(one, other, 0.0), one, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(slerp(one, other, 1.0), other, atol=1e-4, rtol=1e-4)
    middle = slerp(one, other, 0.5)
    torch.testing.assert_close(middle.norm(dim=1), one.norm(dim=1))
    cosines = [(unscaled(middle) * unscaled(each)).sum(dim=1) for each in (one, other)]
    torch.testing.assert_close(*cosines)
    assert slerp(one, one, 0.3).isfinite().all()
    assert slerp(one, -one, 0.5).isfinite().all()


def test_embeddings_that_are_not_finite_are_refused() -> None:
    with pytest.raises(UserError, match="not finite"):
        unclip().generate("blue", embeddings=torch.full((1, 12), float("nan")))
    with pytest.raises(UserError, match="is empty"):
        unclip().generate([" "])


def test_folders_come_back_and_know_their_dual_encoder(tmp_path: Path) -> None:
    model = unclip()
    save_dual_encoder(tmp_path / "encoder", model.encoder)
    encoder = untrained()
    encoder.model.load_state_dict(model.encoder.model.state_dict())
    save_prior(tmp_path / "a", model.prior, encoder)
    save_decoder(tmp_path / "b", model.decoder, encoder)
    for load, name, own in ((load_prior, "a", model.prior), (load_decoder, "b", model.decoder)):
        loaded = load(tmp_path / name, encoder)  # type: ignore[operator]
        for key, value in own.state_dict().items():
            torch.testing.assert_close(loaded.state_dict()[key], value.bfloat16().float())
        with pytest.raises(UserError, match="trained over another dual encoder"):
            load(tmp_path / name, untrained(seed=3))  # type: ignore[operator]
    with pytest.raises(UserError, match="is not a prior"):
        load_prior(tmp_path / "b", encoder)
    places = tmp_path / "a", tmp_path / "b", tmp_path / "encoder"
    save_unclip(tmp_path / "both", *places, FEW)
    loaded = load_unclip(tmp_path / "both")
    assert loaded.sampling == FEW
    assert loaded.generate("blue").images[0].size == (16, 16)


@pytest.mark.parametrize(
    ("schema", "make", "sizes"),
    [
        (train_prior.TrainPrior, make_prior, {"paper": 1.2e9, "emoji": 2.0e6}),
        (train_decoder.TrainDecoder, make_decoder, {"paper": 2.9e9, "emoji": 5.4e6}),
    ],
    ids=["prior", "decoder"],
)
def test_shipped_configs_make_models_of_the_size_that_they_say(
    schema: Any, make: Callable[..., torch.nn.Module], sizes: dict[str, float]
) -> None:
    name = make.__name__.removeprefix("make_")
    for kind, size in sizes.items():
        config = load_config(schema, "", ["--config", f"configs/unclip/{kind}-{name}.yaml"])
        encoder = DualEncoderConfig()
        if kind == "emoji":
            encoder = read_config(Path(config.encoder)).dual_encoder
        with weightless():
            made = make(config.model, encoder)
        assert sum(p.numel() for p in made.parameters()) == pytest.approx(size, rel=0.1)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"image_size": 18}, "does not divide by 4"),
        ({"attention": [2]}, "attention names level 2"),
        ({"norm_groups": 3}, "norm_groups=3 does not divide 8"),
        ({"head_width": 5}, "head_width=5 does not divide 8"),
        ({"channels": []}, "has 0 levels"),
        ({"noise": NoiseConfig(schedule="cubic")}, "schedule is 'cubic'"),
        ({"noise": NoiseConfig(prediction="x")}, "prediction is 'x'"),
    ],
)
def test_decoders_that_cannot_be_are_named(changes: dict[str, Any], says: str) -> None:
    with pytest.raises(UserError, match=says):
        decoder(untrained(), **changes)


def test_figures_of_a_prior_that_knows_the_answer_are_perfect() -> None:
    encoder = untrained()
    text = read_captions(encoder, CAPTIONS)
    embedding = scaled(unscaled(torch.randn(2, 12)))
    model = prior(encoder)
    model.predict = lambda noisy, *_: embedding.to(noisy)  # type: ignore[method-assign,assignment]
    figures = measure_prior(model, embedding, text, sampling_steps=4)
    assert figures["held_out_loss"] == pytest.approx(0, abs=1e-9)
    assert figures["cosine_image"] == pytest.approx(1, abs=1e-4)
    assert figures["cosine_text"] == pytest.approx(figures["cosine_real"], abs=1e-4)


def test_a_decoders_figure_is_the_same_each_time() -> None:
    encoder = untrained()
    text, images = read_captions(encoder, CAPTIONS), torch.rand(2, 3, 16, 16)
    embedding = embed_images(encoder, images)
    first, again = (measure_decoder(decoder(encoder), images, embedding, text) for _ in range(2))
    assert first == again


@pytest.mark.parametrize("script", [train_prior, train_decoder], ids=["prior", "decoder"])
def test_training_resumes_as_if_it_had_never_stopped(
    script: Any, tmp_path: Path, image_folder: Path, run_script: Script
) -> None:
    save_dual_encoder(tmp_path / "encoder", untrained())
    kind = script.__name__.removeprefix("train_")
    words = arguments_of(kind, image_folder, tmp_path, tmp_path / "encoder")
    words += ["run.log_every=1", "optimiser.lr=1e-3"]
    words += ["run.evaluate_every=4", "optimiser.decay_updates=4", "run.updates=4"]
    for name, minutes in (("whole", []), ("parts", ["run.minutes=1e-9"])):
        for _ in range(5 if minutes else 1):
            status, _, error = run_script(
                script.main, *words, *minutes, f"run.out={tmp_path / name}"
            )
            assert status == 0, error
    assert log_lines(tmp_path / "whole") == log_lines(tmp_path / "parts")
    assert (tmp_path / "whole/model/model.safetensors").read_bytes() == (
        tmp_path / "parts/model/model.safetensors"
    ).read_bytes()
    if script is train_decoder:
        assert (tmp_path / "whole/samples/0000004.png").is_file()
    # A run that starts from the model takes over its sizes.
    init = [f"init={tmp_path / 'whole/model'}", "size=large"]
    schema = train_prior.TrainPrior if script is train_prior else train_decoder.TrainDecoder
    assert load_config(schema, "", init).model == load_config(schema, "", words).model


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    model = unclip()
    save_dual_encoder(tmp_path / "encoder", model.encoder)
    save_prior(tmp_path / "prior", model.prior, model.encoder)
    save_decoder(tmp_path / "decoder", model.decoder, model.encoder)
    places = (tmp_path / name for name in ("prior", "decoder", "encoder"))
    save_unclip(tmp_path / "model", *places, FEW)  # type: ignore[arg-type]
    return tmp_path / "model"


@pytest.mark.parametrize("kind", ["caption", "variation", "blend"])
def test_the_script_samples_and_each_command_repeats_its_image(
    kind: str, folder: Path, tmp_path: Path, run_script: Script
) -> None:
    plain("red").save(tmp_path / "red.png")
    words = ["--text", "a red thing", "--model", folder, "--candidates", "3", "--top", "2"]
    if kind != "caption":
        words += ["--image", tmp_path / "red.png"]
    if kind == "blend":
        words += ["--blend-text", "blue", "--blend", "0.25"]
    status, out, error = run_script(sample_script.main, *words, "--out", tmp_path / "out")
    assert status == 0, error
    assert "the best 2 of 3 candidates" in out
    made = tmp_path / "out/a-red-thing"
    record = json.loads((made / "samples.json").read_text("utf-8"))
    scores = [entry["score"] for entry in record["candidates"]]
    assert scores == sorted(scores, reverse=True)
    entry = record["candidates"][1]
    words = shlex.split(entry["command"])[2:]
    status, _, error = run_script(sample_script.main, *words, "--out", tmp_path / "again")
    assert status == 0, error
    with (
        Image.open(made / entry["file"]) as one,
        Image.open(tmp_path / "again/a-red-thing" / entry["file"]) as other,
    ):
        assert (pixels(one) - pixels(other)).abs().max() <= 1


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--text", " "], "--text is empty"),
        (["--text", "a", "--blend-text", ""], "--blend-text is empty"),
        (["--text", "a", "--steps", "0"], "--steps is 0"),
        (["--text", "a", "--prior-steps", "0"], "--prior-steps is 0"),
        (["--text", "a", "--eta", "2"], "--eta is 2"),
        (["--text", "a", "--blend", "1.5"], "--blend is 1.5"),
        (["--text", "a", "--candidates", "0"], "--candidates is 0"),
        (["--text", "a", "--blend-text", "b", "--blend-image", "x.png"], "exclude each other"),
    ],
)
def test_what_makes_no_sense_is_named(words: list[str], says: str) -> None:
    with pytest.raises(UserError, match=says) as error:
        parse_unclip_requests("", [*words, "--model", "m"])
    assert "\n" not in str(error.value)


def test_an_image_that_cannot_be_read_is_named(
    folder: Path, tmp_path: Path, run_script: Script
) -> None:
    words = ["--text", "a", "--model", folder, "--image", tmp_path / "none.png"]
    status, _, error = run_script(sample_script.main, *words, "--out", tmp_path / "out")
    assert status == 2
    assert "--image: not a readable image" in error
    assert not (tmp_path / "out").exists()


class Pooled:
    """A network of the judge's whose features are the colours of quarters."""

    def features(self, images: torch.Tensor, size: int) -> torch.Tensor:
        return torch.nn.functional.adaptive_avg_pool2d(images, 2).flatten(1)


def test_the_judge_sees_the_prior_beside_the_papers_baselines(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model = unclip()
    generator = torch.Generator().manual_seed(0)
    images = [to_image(torch.rand(3, 16, 16, generator=generator)) for _ in range(4)]
    cases = [Case(str(i), "ink", f"blue {i}", each, each, i) for i, each in enumerate(images)]
    exam = Exam({KNOWN: cases}, None, "ink", "oil")  # type: ignore[arg-type]
    judge = Judge(Pooled(), exam, Judging(resamples=20))
    real = torch.cat([model.embedding_of(image) for image in images])
    own = Unclip.decode

    def decode(self: Unclip, embedding: torch.Tensor, *others: Any) -> torch.Tensor:
        """Of the real images' embeddings alone come the real images."""
        if torch.equal(embedding, real):
            return torch.stack([to_tensor([to_array(image)])[0] for image in images])
        return own(self, embedding, *others)

    monkeypatch.setattr(Unclip, "decode", decode)
    found = judge_group(judge, model, KNOWN, candidates=5, seed=0)
    assert [*found.verdicts] == [
        *("one", "best_of_4", "best_of_5", "text_embedding", "real_embedding", "caption_alone"),
        "real",
    ]
    assert found.verdicts["real_embedding"].top_1.value == 1
    assert found.verdicts["one"].top_1.value < 1
    assert len(found.samples) == found.count == 4


def test_evaluate_measures_prior_and_decoder(
    folder: Path, tmp_path: Path, image_folder: Path, run_script: Script
) -> None:
    config = tmp_path / "c.yaml"
    config.write_text(f"data: {{source: folder, path: '{image_folder}', held_out_share: 0.4}}")
    words = [folder, "--config", config, "--images", "3", "--json", tmp_path / "f.json"]
    status, _, error = run_script(evaluate.main, *words)
    assert status == 0, error
    figures = json.loads((tmp_path / "f.json").read_text("utf-8"))
    assert -1 <= figures["prior_cosine_image"] <= 1
    assert figures["decoder_held_out_loss"] > 0
    status, _, error = run_script(evaluate.main, folder, "--checker", "2")
    assert status == 2
    assert "give --config" in error


@pytest.mark.slow
def test_processes_share_candidates_out(
    folder: Path, tmp_path: Path, run_script: Script, run_in_two_processes: Callable[..., None]
) -> None:
    words = ["--model", str(folder), "--text", "blue", "--candidates", "3", "--seed", "2"]
    run_in_two_processes("sample.py", *words, "--out", str(tmp_path / "two"))
    assert run_script(sample_script.main, *words, "--out", tmp_path / "one")[0] == 0
    one, two = (
        json.loads((tmp_path / out / "blue/samples.json").read_text()) for out in ("one", "two")
    )
    for first, second in zip(one["candidates"], two["candidates"], strict=True):
        assert first["file"] == second["file"]
        assert first["embedding"] == pytest.approx(second["embedding"], abs=1e-4)
