"""VQGAN: its quantisers against formulas and slow loops, its codes local where they should be."""

import copy
import itertools
import math
import shutil
from typing import Any

import pytest
import torch
from torch.nn import functional as F

import train_dvae
from dalle_base.common.errors import UserError
from dalle_base.common.schema import validate_all
from dalle_base.training.config import OptimiserConfig
from dvae.checkpoint import load_tokenizer, save_tokenizer, tokenizer_fingerprint
from dvae.kinds import SavedTokenizer
from dvae.vqgan.config import NetworkConfig, SideConfig, VQGANConfig
from dvae.vqgan.model import VQGAN, usage
from dvae.vqgan.networks import Decoder, Encoder
from dvae.vqgan.quantisers import QUANTISERS, make_quantiser
from dvae.vqgan.quantisers import base as quantisers_base
from dvae.vqgan.quantisers.base import Codebook, nearest, rows
from dvae.vqgan.quantisers.fsq import FSQ

SIZES = {"vq": 12, "ema": 12, "cosine": 12, "fsq": 12, "gumbel": 12}
OPTIONS = {"fsq": {"levels": [4, 3]}, "cosine": {"width": 4}}
LOCAL = SideConfig(attention=False, norm="pixel")


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


def tiny(quantiser: str = "vq", **changes: Any) -> VQGANConfig:
    """A config of a tiny VQGAN: 12x12 images, 3x3 codes."""
    network: dict[str, Any] = {
        "width": 8,
        "multipliers": [1, 2, 1],
        "blocks": 1,
        "attention_levels": [1],
        "z_channels": 6,
        "code_width": 5,
        "norm_groups": 4,
        **changes.pop("network", {}),
    }
    options = {**OPTIONS, **changes.pop("quantiser_options", {})}
    settings = {"image_size": 12, "grid": 3, "codebook_size": SIZES[quantiser], **changes}
    return VQGANConfig(
        quantiser=quantiser,
        quantiser_options=options,
        network=NetworkConfig(**network),
        **settings,
    )


def build(config: VQGANConfig, seed: int = 0) -> VQGAN:
    torch.manual_seed(seed)
    model = VQGAN(config)
    for name, parameter in model.named_parameters():  # biases and gains too
        if parameter.requires_grad and "codebook" not in name:
            parameter.data.add_(torch.randn_like(parameter) * 0.05)
    if isinstance(model.quantiser, Codebook):  # codes as different as vectors are
        with torch.no_grad():
            found = rows(model.encoded(torch.rand(8, 3, config.image_size, config.image_size)))
        table(model).data = found[torch.randperm(len(found))[: config.codebook_size]]
    return model


def table(model: VQGAN) -> torch.Tensor:
    """Its codes' vectors [K, D]."""
    return model.quantiser.get_parameter("codebook")


def quantiser(kind: str, size: int, values: int, **options: Any) -> Any:
    """A quantiser whose codes are as far apart as vectors are."""
    torch.manual_seed(0)
    made = make_quantiser(kind, size, values, options)
    if isinstance(made, Codebook):
        made.codebook.data.normal_()
    return made


# quantisers ---------------------------------------------------------------------------------------


def test_the_nearest_code_is_that_of_brute_force(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(quantisers_base, "MOST_DISTANCES", 40)  # parts of 5 vectors
    vectors = torch.randn(37, 6)
    codebook = torch.randn(8, 6)
    codebook[[2, 5]] = vectors[0]  # of two equal codes the first
    differences = vectors.double()[:, None] - codebook.double()[None]
    expected = differences.square().sum(dim=2).argmin(dim=1)
    assert torch.equal(nearest(vectors, codebook), expected)
    assert 2 in expected
    assert 5 not in expected


@pytest.mark.parametrize("name", ["vq", "ema"])
def test_straight_through_is_the_identity_for_gradients(name: str) -> None:
    made = quantiser(name, 7, 5, dead_below=0.0)
    vectors = torch.randn(2, 5, 3, 2, requires_grad=True)
    result = made(vectors)
    upstream = torch.randn(2, 5, 3, 2)
    (gradient,) = torch.autograd.grad((result.vectors * upstream).sum(), vectors)
    assert torch.equal(gradient, upstream)
    before = quantiser(name, 7, 5)
    assert torch.equal(result.vectors, before.vectors(result.codes))


def test_commitment_pulls_the_encoder_and_the_other_term_the_codes() -> None:
    """β is on the encoder's term: not so in taming, unless its `legacy` is off."""
    config = tiny()
    config.objective.pixel_weight, config.objective.commitment = 0.0, 0.25
    config.objective.codebook_weight = 3.0
    model = build(config)
    images = torch.rand(2, 3, 12, 12)
    seen: list[torch.Tensor] = []

    def keep(_: Any, inputs: tuple[torch.Tensor, ...]) -> None:
        inputs[0].retain_grad()
        seen.append(inputs[0])

    model.quantiser.register_forward_pre_hook(keep)
    total = model.loss(images, 0).total
    total.backward()
    z, codebook = seen[0], table(model)
    codes = nearest(rows(z), codebook)
    flat = rows(z).detach()
    chosen = codebook.detach()[codes]
    n = flat.numel()
    assert z.grad is not None
    torch.testing.assert_close(rows(z.grad), 0.25 * 2 * (flat - chosen) / n)
    expected = torch.zeros_like(codebook).index_add_(0, codes, 3.0 * 2 * (chosen - flat) / n)
    torch.testing.assert_close(codebook.grad, expected)
    distance = (flat - chosen).square().mean()
    torch.testing.assert_close(total.detach(), (0.25 + 3.0) * distance)


def test_an_average_codebook_follows_a_naive_loop() -> None:
    """Against averaged sums over averaged counts, code by code, in float64."""
    size, width, decay = 5, 3, 0.9
    made = quantiser("ema", size, width, dead_below=0.0, decay=decay, smoothing=0.0).double()
    codebook = made.codebook.detach().clone()
    counts = [1 / size] * size  # as shares of the vectors
    sums = [counts[k] * codebook[k] for k in range(size)]
    for _ in range(4):
        vectors = torch.randn(2, width, 4, 3, dtype=torch.float64)
        flat = rows(vectors)
        codes = (flat[:, None] - codebook[None]).square().sum(dim=2).argmin(dim=1)
        result = made(vectors)
        assert torch.equal(result.codes.flatten(), codes)
        # The codes that the decoder sees are those of before the update.
        torch.testing.assert_close(rows(result.vectors), codebook[codes])
        for k in range(size):
            mine = flat[codes == k]
            counts[k] = decay * counts[k] + (1 - decay) * len(mine) / len(flat)
            sums[k] = decay * sums[k] + (1 - decay) * mine.sum(dim=0) / len(flat)
            codebook[k] = sums[k] / counts[k]
        torch.testing.assert_close(made.codebook.detach(), codebook)
        torch.testing.assert_close(made.usage.detach(), torch.tensor(counts, dtype=torch.float64))


def test_laplace_smoothing_slows_rare_codes_and_leaves_unused_ones_where_they_are() -> None:
    made = quantiser("ema", 4, 2, dead_below=0.0, decay=0.5, smoothing=0.1)
    made.codebook.data = torch.tensor([[0.0, 0.0], [10.0, 0.0], [0.0, 10.0], [10.0, 10.0]])
    vectors = torch.tensor([[1.0, 1.0], [1.0, 1.0], [9.0, 1.0], [1.0, 1.0]]).T[None, :, :, None]
    made(vectors)
    # Shares 3/4 and 1/4 of the batch: usage (1/4 + 3/4)/2 and (1/4 + 1/4)/2, smoothed over 1.4.
    share = torch.tensor([(0.5 + 0.1) / 1.4, (0.25 + 0.1) / 1.4])
    moved = 0.5 * torch.tensor([[0.75, 0.75], [-0.25, 0.25]]) / share[:, None]
    expected = made.codebook.new_tensor([[0, 0], [10, 0], [0, 10], [10, 10]])
    expected[:2] += moved
    torch.testing.assert_close(made.codebook.detach(), expected)


def test_an_average_codebook_learns_in_training_alone_and_by_no_gradient() -> None:
    model = build(tiny("ema"))
    images = torch.rand(2, 3, 12, 12)
    model.loss(images, 0).total.backward()  # the start: all codes are of the first batch
    assert table(model).grad is None
    before = copy.deepcopy(model.quantiser.state_dict())
    with torch.no_grad():
        model.loss(images, 0)
    model.encode(images)
    model.eval()
    model.loss(images, 0)
    after = model.quantiser.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)
    model.train()
    model.loss(images, 0)
    assert not torch.equal(before["codebook"], table(model))


@pytest.mark.parametrize("name", ["vq", "ema", "cosine"])
def test_dead_codes_become_vectors_of_the_batch(name: str) -> None:
    options = {"width": 3} if name == "cosine" else {}
    made = quantiser(name, 6, 3, dead_below=0.2, decay=0.9, **options)
    made.codebook.data = torch.full((6, 3), 100.0) + torch.eye(6, 3)
    vectors = torch.randn(1, 3, 5, 5)
    flat = rows(F.normalize(vectors, dim=1) if name == "cosine" else vectors)
    made.usage.data.fill_(1 / 6)
    made.usage.data[[1, 4]] = 0.19 / 6
    before = made.codebook.detach().clone()
    made.replace_dead(flat)
    alive = [0, 2, 3, 5]
    assert torch.equal(made.codebook[alive], before[alive])
    torch.testing.assert_close(made.usage.detach(), torch.full((6,), 1 / 6))
    found = [(made.codebook[k] == flat).all(dim=1).nonzero().flatten().tolist() for k in (1, 4)]
    assert all(len(each) == 1 for each in found)
    assert found[0] != found[1]


def test_a_collapsed_codebook_comes_back_to_life() -> None:
    """Codes far from all vectors die and are replaced; without replacement all stay dead."""
    used = {}
    for dead_below in (0.0, 0.3):
        made = quantiser("ema", 16, 4, dead_below=dead_below, decay=0.8)
        made.codebook.data += 50.0
        made.usage.data.fill_(1 / 16)
        made.codebook.data[0] = 0.0
        for seed in range(12):
            torch.manual_seed(seed)
            codes = made(torch.randn(4, 4, 5, 5)).codes
        used[dead_below] = len(codes.unique())
    assert used[0.0] == 1
    assert used[0.3] > 12


def test_two_processes_average_as_one_with_both_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    vectors = torch.randn(2, 3, 4, 4)
    alone = quantiser("ema", 6, 3, dead_below=0.0, decay=0.5)
    alone(torch.cat([vectors, vectors]))
    shared = quantiser("ema", 6, 3, dead_below=0.0, decay=0.5)
    # As if another process had the same batch.
    monkeypatch.setattr(quantisers_base, "_several", lambda: True)
    monkeypatch.setattr(quantisers_base.distributed, "all_reduce", lambda sums: sums.mul_(2))
    shared(vectors)
    torch.testing.assert_close(shared.codebook, alone.codebook)
    torch.testing.assert_close(shared.usage, alone.usage)
    # Dead codes become the first process's vectors, in all of them.
    monkeypatch.setattr(
        quantisers_base.distributed, "broadcast", lambda values, source: values.fill_(7.0 + source)
    )
    shared.options.dead_below = 0.9
    shared.usage.data[3] = 0.0
    shared.replace_dead(rows(vectors))
    assert torch.equal(shared.codebook[3], torch.full((3,), 7.0))


def test_the_first_batch_is_where_codes_that_can_die_start() -> None:
    made = make_quantiser("ema", 8, 3, {"decay": 0.5})
    vectors = torch.randn(2, 3, 2, 2)
    result = made(vectors)
    assert torch.equal(rows(result.vectors), rows(vectors))  # as many codes as vectors: all exact
    assert len(result.codes.unique()) == 8


def test_the_entropy_term_is_that_of_soft_assignments() -> None:
    options = {"entropy_weight": 0.7, "entropy_spread": 1.3, "entropy_temperature": 0.5}
    made = quantiser("vq", 4, 3, **options)
    vectors = torch.randn(2, 3, 2, 2)
    distances = (rows(vectors)[:, None] - made.codebook[None]).square().sum(dim=2)
    p = (-distances / 0.5).softmax(dim=1)
    mean = p.mean(dim=0)
    expected = -(p * p.log()).sum(dim=1).mean() + 1.3 * (mean * mean.log()).sum()
    torch.testing.assert_close(made(vectors).regulariser, 0.7 * expected)
    # One code for each position and all alike in use is its best value: -ln K.
    made.codebook.data = 100 * torch.eye(4)[:, :3]
    result = made(made.codebook.detach().T[None, :, :, None])
    torch.testing.assert_close(result.regulariser, torch.tensor(-0.7 * 1.3 * math.log(4)))


def test_cosine_codes_see_angles_alone() -> None:
    made = quantiser("cosine", 9, 99, width=3)
    assert made.width == 3
    vectors = torch.randn(2, 3, 4, 4)
    expected = F.cosine_similarity(
        rows(vectors)[:, None].double(), made.codebook[None].double(), dim=2
    ).argmax(dim=1)
    assert torch.equal(made.codes(vectors).flatten(), expected)
    assert torch.equal(made.codes(vectors * 7), made.codes(vectors))
    made.codebook.data *= torch.rand(9, 1) + 0.5
    assert torch.equal(made.codes(vectors).flatten(), expected)
    lengths = made.vectors(made.codes(vectors)).norm(dim=1)
    torch.testing.assert_close(lengths, torch.ones_like(lengths))
    result = made(vectors)
    angle = 2 - 2 * F.cosine_similarity(vectors, result.vectors, dim=1)
    torch.testing.assert_close(result.commitment, angle.mean() / 3)
    torch.testing.assert_close(result.codebook, angle.mean() / 3)


@pytest.mark.parametrize("levels", [[8, 5, 5, 5], [2, 3], [4, 7, 2], [8, 6, 5]])
def test_fsq_codes_and_values_are_one_to_one(levels: list[int]) -> None:
    size = math.prod(levels)
    made = make_quantiser("fsq", size, 99, {"levels": levels})
    assert isinstance(made, FSQ)
    codes = torch.arange(size)[None, :, None]
    values = made.vectors(codes)
    assert values.shape == (1, len(levels), size, 1)
    # The lattice itself: the first level runs fastest, values from -1 in steps of 1 / (L // 2).
    grid = [[(i - n // 2) / (n // 2) for i in range(n)] for n in reversed(levels)]
    expected = torch.tensor([point[::-1] for point in itertools.product(*grid)])
    torch.testing.assert_close(rows(values), expected)
    # Every code is reached, by the vector that the bounding function takes there.
    half = torch.tensor([(n - 1) / 2 * 1.001 for n in levels], dtype=torch.float64)
    offset = torch.tensor([0.5 * (n % 2 == 0) for n in levels], dtype=torch.float64)
    steps = expected.double() * torch.tensor([n // 2 for n in levels])
    vectors = ((steps + offset) / half).atanh() - (offset / half).atanh()
    vectors = vectors.T[None, :, :, None]
    assert torch.equal(made.codes(vectors), codes)
    result = made(vectors)
    assert torch.equal(result.codes, codes)
    torch.testing.assert_close(result.vectors.float(), values)
    assert torch.equal(made.codes(vectors * 1e6).unique(), made.codes(vectors.sign() * 9).unique())


def test_fsqs_gradient_is_that_of_its_bounding_function() -> None:
    made = make_quantiser("fsq", 15, 99, {"levels": [5, 3]})
    vectors = torch.randn(1, 2, 3, 3, requires_grad=True)
    (gradient,) = torch.autograd.grad(made(vectors).vectors.sum(), vectors)
    reach = torch.tensor([2 * 1.001 / 2, 1 * 1.001 / 1])[:, None, None]
    torch.testing.assert_close(gradient, reach * (1 - vectors.detach().tanh().square())[0][None])


def test_an_fsq_codebook_is_the_product_of_its_levels() -> None:
    with pytest.raises(UserError, match=r"has 1000 codes: write model\.codebook_size=1000"):
        VQGAN(tiny(quantiser_options={"fsq": {"levels": [8, 5, 5, 5]}}, quantiser="fsq"))


def test_gumbel_codes_are_the_largest_logits_and_train_by_one_hot_samples() -> None:
    made = quantiser("gumbel", 5, 3, kl_weight=2.0, temperature=0.5)
    vectors = torch.randn(2, 3, 4, 4, requires_grad=True)
    logits = F.conv2d(vectors, made.project.weight, made.project.bias)
    assert torch.equal(made.codes(vectors), logits.argmax(dim=1))
    result = made(vectors)
    torch.testing.assert_close(result.vectors, made.vectors(result.codes))
    q = logits.softmax(dim=1)
    kl = (q * (q * 5).log()).sum(dim=1).mean()
    torch.testing.assert_close(result.regulariser, 2 * kl)
    (gradient,) = torch.autograd.grad(result.vectors.square().sum(), vectors)
    assert gradient.abs().sum() > 0


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("vq", {"lvels": 3}, r"model\.quantiser_options\.vq: unknown key lvels"),
        ("ema", {"decay": 1.0}, r"quantiser_options\.ema: decay is 1.0"),
        ("ema", {"dead_below": "much"}, "wrong type for dead_below"),
        ("vq", {"entropy_temperature": 0}, "entropy_temperature"),
        ("fsq", {"levels": [8, 1]}, "write whole numbers from 2"),
        ("cosine", {"width": 1}, r"cosine: width is 1: write a whole number from 2"),
        ("gumbel", {"temperature": 0}, r"gumbel: temperature is 0.0: write a number above 0"),
        ("vq", 3, "no mapping of options"),
    ],
)
def test_wrong_options_of_quantisers_are_named(name: str, options: Any, message: str) -> None:
    with pytest.raises(UserError, match=message):
        VQGAN(tiny(name, quantiser_options={name: options}))


# the model ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", QUANTISERS)
def test_every_quantiser_trains_encodes_and_decodes(name: str) -> None:
    model = build(tiny(name))
    images = torch.rand(3, 3, 12, 12)
    report = model(images, 0)
    report.total.backward()
    still = ("quantiser.usage", "quantiser.codebook") if name == "ema" else ("quantiser.usage",)
    for key, parameter in model.named_parameters():
        moved = parameter.grad is not None and bool(parameter.grad.abs().sum() > 0)
        assert moved is not (key in still), key
    assert report.reconstruction is not None
    assert report.reconstruction.shape == images.shape
    l1 = (report.reconstruction - images).abs().mean()
    torch.testing.assert_close(report.metrics["pixel_l1"], l1.detach())
    codes = model.encode(images)
    assert codes.dtype == torch.int64
    assert codes.shape == (3, 3, 3)
    assert int(codes.min()) >= 0
    assert int(codes.max()) < model.vocab_size
    assert torch.equal(codes, model.encode(images))
    drawn = model.decode(codes)
    assert drawn.shape == images.shape
    assert float(drawn.min()) >= 0
    assert float(drawn.max()) <= 1
    torch.testing.assert_close(drawn[1:2], model.decode(codes[1:2]))
    if name != "gumbel":  # whose training is noisy
        model.eval()
        evaluated = model.loss(images, 0).reconstruction
        assert evaluated is not None
        torch.testing.assert_close(evaluated.clamp(0, 1), model.reconstruct(images))


def test_the_loss_is_pixels_in_our_scale_and_reconstructions_are_not_clamped() -> None:
    config = tiny("fsq")
    config.objective.pixel_loss = "l2"
    model = build(config)
    model.decoder.get_parameter("conv_out.bias").data.fill_(3.0)  # beyond 1
    images = torch.rand(2, 3, 12, 12)
    report = model.loss(images, 0)
    assert report.reconstruction is not None
    assert float(report.reconstruction.detach().min()) > 1
    expected = 2 * (report.reconstruction - images).square().mean()
    torch.testing.assert_close(report.total, expected)
    config.objective.pixel_loss = "l3"
    with pytest.raises(UserError, match="pixel_loss is 'l3'"):
        config.objective.validate()


@pytest.mark.parametrize("name", QUANTISERS)
def test_decoder_only_training_keeps_the_codes(name: str) -> None:
    model = build(tiny(name))
    only = tiny(name)
    only.objective.decoder_only = True
    tuned = VQGAN(only)
    tuned.load_state_dict(model.state_dict())
    tuned.train()
    images = torch.rand(2, 3, 12, 12)
    before = {key: value.clone() for key, value in tuned.code_state().items()}
    optimiser = torch.optim.SGD([p for p in tuned.parameters() if p.requires_grad], lr=0.1)
    report = tuned.loss(images, 0)
    report.total.backward()
    optimiser.step()
    assert torch.equal(model.encode(images), tuned.encode(images))
    after = tuned.code_state()
    assert all(torch.equal(value, after[key]) for key, value in before.items())
    assert all(p.grad is not None for p in tuned.decoder.parameters())
    assert all(p.grad is None for p in tuned.encoder.parameters())
    assert report.reconstruction is not None
    first = model.decode(model.encode(images))
    assert torch.allclose(report.reconstruction.clamp(0, 1), first, atol=1e-5)
    assert not torch.equal(tuned.decode(tuned.encode(images)), first)


def test_images_meet_the_networks_between_minus_one_and_one() -> None:
    model = build(tiny())
    seen: dict[str, torch.Tensor] = {}
    model.encoder.register_forward_pre_hook(lambda *given: seen.update(images=given[1][0]))
    model.decoder.register_forward_hook(lambda *given: seen.update(pixels=given[2]))
    images = torch.rand(1, 3, 12, 12)
    report = model.loss(images, 0)
    torch.testing.assert_close(seen["images"], images * 2 - 1)
    assert report.reconstruction is not None
    torch.testing.assert_close(report.reconstruction, (seen["pixels"] + 1) / 2)


def test_usage_counts_a_batchs_codes() -> None:
    figures = usage(torch.tensor([[[0, 0], [3, 3]]]), 8)
    torch.testing.assert_close(figures["batch_perplexity"], torch.tensor(2.0))
    torch.testing.assert_close(figures["batch_codes_used"], torch.tensor(0.25))


@pytest.mark.parametrize("name", ["vq", "ema", "fsq", "cosine"])
def test_codes_under_autocast_come_from_float32_vectors(name: str) -> None:
    model = build(tiny(name)).eval()
    seen: list[torch.Tensor] = []
    model.quantiser.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    images = torch.rand(2, 3, 12, 12)
    with torch.autocast("cpu", torch.bfloat16):
        report = model.loss(images, 0)
        features = model.encoder(images)
    assert features.dtype == torch.bfloat16
    assert seen[0].dtype == torch.float32
    assert not torch.equal(seen[0], seen[0].bfloat16().float())
    assert report.total.dtype == torch.float32
    assert report.reconstruction is not None
    assert report.reconstruction.dtype == torch.float32


# local codes --------------------------------------------------------------------------------------


def local(**changes: Any) -> NetworkConfig:
    settings = {"width": 4, "multipliers": [1, 2], "blocks": 1, "z_channels": 3, **changes}
    return NetworkConfig(attention_levels=[], encoder=settings.pop("encoder", LOCAL), **settings)


@pytest.mark.parametrize(
    ("network", "field"),
    [
        (local(), 3 + 4 + 2 + 8 + 20),
        (local(stem_stride=2, encoder=SideConfig(False, "pixel", 2, [3, 1])), 6 + 16 + 4),
        (local(multipliers=[1, 1, 1], encoder=SideConfig(False, "pixel", 0, [1, 3, 1])), 17),
    ],
)
def test_a_code_sees_its_field_of_view_and_no_more(network: NetworkConfig, field: int) -> None:
    assert network.field_of_view == field
    torch.manual_seed(0)
    encoder = Encoder(network).double()
    # Everything positive, so that no contribution of a pixel cancels another.
    patch = network.downsampling
    size = patch * (2 * (field // patch) + 5)
    pixels = torch.rand(1, 3, size, size, dtype=torch.float64, requires_grad=True)
    features = encoder(pixels)
    middle = features.shape[-1] // 2
    (gradient,) = torch.autograd.grad(features[0, :, middle, middle].square().sum(), pixels)
    touched = gradient.abs().sum(dim=(0, 1)) > 0
    for dimension in (0, 1):
        seen = touched.any(dim=dimension).nonzero().flatten()
        assert int(seen[-1] - seen[0]) + 1 == field


def test_with_attention_or_a_norm_over_the_grid_a_code_sees_all() -> None:
    for side in (SideConfig(True, "pixel"), SideConfig(False, "group")):
        network = local(encoder=side)
        assert network.field_of_view is None
        torch.manual_seed(0)
        encoder = Encoder(network)
        pixels = torch.rand(1, 3, 64, 64, requires_grad=True)
        (gradient,) = torch.autograd.grad(encoder(pixels)[0, :, 0, 0].square().sum(), pixels)
        assert float(gradient[0, :, -8:, -8:].abs().sum()) > 0


def test_local_codes_change_only_near_a_pixel_and_move_with_the_image() -> None:
    network = local(stem_stride=2, code_width=4, encoder=SideConfig(False, "pixel", 0, [3, 1]))
    config = VQGANConfig(image_size=96, grid=24, codebook_size=64, network=network)
    model = build(config)
    field = config.network.field_of_view
    assert field is not None
    patch = config.network.downsampling
    torch.manual_seed(0)
    scene = torch.rand(1, 3, 96 + patch, 96 + patch)
    images = scene[..., :96, :96]
    codes = model.encode(images)
    changed = images.clone()
    changed[..., 50, 40] = 1 - changed[..., 50, 40]
    rows_, columns = (model.encode(changed) != codes)[0].nonzero().unbind(dim=1)
    assert len(rows_) > 0
    for found, pixel in ((rows_, 50), (columns, 40)):
        distance = (found * patch + patch // 2 - pixel).abs()
        assert int(distance.max()) <= field // 2 + patch
    shifted = model.encode(scene[..., patch:, patch:])
    edge = math.ceil(field / patch / 2) + 1  # codes that see beyond the image's border
    inner = codes[:, edge:-edge, edge:-edge]
    assert inner.shape[-1] >= 4
    assert len(inner.unique()) > 4
    moved = shifted[:, edge - 1 : -edge - 1, edge - 1 : -edge - 1]
    assert torch.equal(moved, inner)


# sizes and checkpoint -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("grid", "changes"),
    [
        (5, {}),
        (1, {"multipliers": [3, 1, 2, 2], "attention_levels": [0, 3]}),
        (7, {"stem_stride": 4, "multipliers": [1], "attention_levels": []}),
        (3, {"stem_stride": 2, "decoder": SideConfig(False, "pixel", 1, [1, 3, 3])}),
        (3, {"encoder": SideConfig(True, "pixel", 2), "dropout": 0.5}),
    ],
)
def test_every_network_option_builds_the_grid_it_says(grid: int, changes: dict[str, Any]) -> None:
    config = tiny(network=changes)
    config.grid = grid
    config.image_size = grid * config.network.downsampling
    model = build(config).eval()
    images = torch.rand(2, 3, config.image_size, config.image_size)
    codes = model.encode(images)
    assert codes.shape == (2, grid, grid)
    assert model.decode(codes).shape == images.shape
    wider = torch.rand(1, 3, 2 * config.image_size, config.image_size)
    assert model.encode(wider).shape == (1, 2 * grid, grid)


def test_dropout_acts_in_training_alone() -> None:
    model = build(tiny(network={"dropout": 0.5}))
    images = torch.rand(1, 3, 12, 12)
    assert not torch.equal(model.encoded(images), model.encoded(images))
    model.eval()
    assert torch.equal(model.encoded(images), model.encoded(images))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"grid": 4}, r"model\.grid=4 does not fit: .* need model\.image_size=16"),
        ({"codebook_size": 1}, "model.codebook_size is 1: write a whole number from 2"),
        ({"quantiser_options": {"vqq": {}}}, "a key of model.quantiser_options is 'vqq'"),
        ({"network": {"attention_levels": [3]}}, "the levels are 0 to 2"),
        ({"network": {"multipliers": []}}, "multipliers is"),
        ({"network": {"stem_stride": 3}}, "stem_stride is 3"),
        ({"network": {"encoder": SideConfig(norm="batch")}}, "network.encoder.norm is 'batch'"),
        ({"network": {"decoder": SideConfig(kernels=[3])}}, "write 3 numbers"),
        ({"network": {"decoder": SideConfig(kernels=[3, 2, 3])}}, "write odd numbers"),
    ],
)
def test_impossible_configs_name_the_key(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        validate_all(tiny(**changes), "model")


@pytest.mark.parametrize("name", QUANTISERS)
def test_a_saved_tokenizer_has_codes_of_its_own_for_good(name: str, tmp_path) -> None:
    """What is stored in bfloat16 may have other codes than what was trained, and is what counts."""
    config = tiny(name)
    model = build(config).eval()
    images = torch.rand(4, 3, 12, 12)
    save_tokenizer(tmp_path / "a", model, SavedTokenizer("vqgan", config))
    loaded, saved = load_tokenizer(tmp_path / "a")
    assert saved.model == config
    assert isinstance(loaded, VQGAN)
    rounded = copy.deepcopy(model)
    for tensor in rounded.state_dict().values():
        tensor.copy_(tensor.bfloat16())
    codes = loaded.encode(images)
    assert torch.equal(codes, rounded.encode(images))
    assert torch.equal(loaded.decode(codes), rounded.decode(codes))
    save_tokenizer(tmp_path / "b", loaded, saved)
    again, _ = load_tokenizer(tmp_path / "b")
    assert torch.equal(again.encode(images), codes)
    assert tokenizer_fingerprint(again) == tokenizer_fingerprint(loaded)
    assert tokenizer_fingerprint(loaded) == tokenizer_fingerprint(model)
    exact = SavedTokenizer("vqgan", config, precision="float32")
    save_tokenizer(tmp_path / "c", model, exact)
    assert torch.equal(load_tokenizer(tmp_path / "c")[0].encode(images), model.encode(images))


def test_the_fingerprint_is_that_of_what_codes_depend_on() -> None:
    model = build(tiny("ema"))
    before = tokenizer_fingerprint(model)
    for name, parameter in model.named_parameters():
        old = parameter.detach().clone()
        parameter.data.add_(1.0)
        matters = name.startswith(("encoder.", "quant_conv.", "quantiser.codebook"))
        assert (tokenizer_fingerprint(model) != before) is matters, name
        parameter.data.copy_(old)
    first, second = (
        build(tiny("fsq", quantiser_options={"fsq": {"levels": levels}}))
        for levels in ([4, 3], [3, 4])
    )
    assert tokenizer_fingerprint(first) != tokenizer_fingerprint(second)


def test_hidden_weights_are_all_convolutions_but_those_at_pixels_and_codes() -> None:
    model = build(tiny("gumbel"))
    hidden = {id(weight) for weight in model.hidden_weights()}
    left = {name for name, p in model.named_parameters() if p.ndim == 4 and id(p) not in hidden}
    assert left == {
        "encoder.conv_in.weight",
        "decoder.conv_out.weight",
        "quant_conv.weight",
        "post_quant_conv.weight",
        "quantiser.project.weight",
    }
    assert all(weight.ndim == 4 for weight in model.hidden_weights())
    assert model.last_layer() is model.decoder.conv_out.weight


def test_an_update_moves_and_averages_the_codebook_that_ships() -> None:
    """The trainer averages parameters alone: a codebook in buffers would ship as it was born."""
    from accelerate import Accelerator

    from dalle_base.training.trainer import Trainer

    model = build(tiny("ema"))
    born = table(model).detach().clone()
    config = OptimiserConfig(name="muon", lr=1e-2, weight_decay=0.5, ema_decay=0.5)
    trainer = Trainer(model, config, Accelerator(cpu=True))
    for step in range(3):
        before = table(model).detach().clone()
        loss = trainer.model(torch.rand(4, 3, 12, 12), step).total
        followed = table(model).detach().clone()
        trainer.update(loss)
        assert not torch.equal(before, followed)
        assert torch.equal(table(model), followed)  # no decay, no step
    shipped = table(trainer.average)  # type: ignore[arg-type]
    assert not torch.equal(shipped, born)
    last = table(model)
    assert float((shipped - last).norm()) < 0.7 * float((born - last).norm())


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler")
@pytest.mark.filterwarnings("ignore::DeprecationWarning:torch")
@pytest.mark.filterwarnings("ignore::UserWarning:torch")
def test_a_compiled_decoder_passes_on_the_gradient_of_an_eager_one_in_bfloat16() -> None:
    network = {"width": 32, "multipliers": [1], "attention_levels": [0], "norm_groups": 32}
    model = build(tiny(image_size=8, grid=8, network=network))
    vectors = torch.randn(4, 5, 8, 8)
    gradients = []
    for compiled in (False, True):
        if compiled:
            model.compile_networks()
        given = vectors.clone().requires_grad_()
        with torch.autocast("cpu", torch.bfloat16):
            images = model.draw(given)
        (images * torch.linspace(-1, 1, images.numel()).view_as(images)).sum().backward()
        assert given.grad is not None
        gradients.append(given.grad)
    plain, fast = gradients
    assert float((plain - fast).norm()) < 0.1 * float(plain.norm())


TRAINING = (
    *("tokenizer=vqgan", "model.codebook_size=12", "model.image_size=8", "model.grid=2"),
    *("model.network.width=4", "model.network.multipliers=[1,1,1]", "model.network.blocks=1"),
    *("model.network.attention_levels=[2]", "model.network.z_channels=4"),
    *("model.network.code_width=4", "model.quantiser_options.fsq.levels=[4,3]"),
    *("data.held_out_share=0.3", "run.batch_size=4", "run.save_every=1"),
)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["ema", "fsq"])
def test_a_vqgan_trains_resumes_and_loads(name, tmp_path, run_script, image_folder) -> None:
    def train(folder: str, updates: int) -> dict[str, torch.Tensor]:
        arguments = [*TRAINING, f"model.quantiser={name}", f"data.path={image_folder}"]
        arguments += [f"run.updates={updates}", f"run.out={tmp_path / folder}"]
        status, _, error = run_script(train_dvae.main, *arguments)
        assert status == 0, error
        return load_tokenizer(tmp_path / folder / "tokenizer")[0].state_dict()

    train("parts", 1)
    resumed, whole = train("parts", 2), train("whole", 2)
    assert all(torch.equal(resumed[key], whole[key]) for key in whole)


@pytest.mark.slow
def test_an_average_codebook_is_one_over_two_processes(
    tmp_path, run_in_two_processes, image_folder
) -> None:
    """The start takes the first process's vectors alone; each use counts in both."""
    arguments = [*TRAINING, "model.quantiser=ema", f"data.path={image_folder}", "run.updates=2"]
    run_in_two_processes("train_dvae.py", *arguments, f"run.out={tmp_path / 'run'}")
    tokenizer, _ = load_tokenizer(tmp_path / "run" / "tokenizer")
    usage = tokenizer.get_parameter("quantiser.usage")
    torch.testing.assert_close(usage.sum(), torch.tensor(1.0), rtol=0, atol=0.2)


def test_a_wrong_quantiser_is_answered_before_torch_is_needed(run_script) -> None:
    status, _, error = run_script(train_dvae.main, "tokenizer=vqgan", "model.quantiser=vqq")
    assert status == 2
    assert "model.quantiser is 'vqq'; use one of vq, ema, cosine, fsq, gumbel" in error
    status, printed, _ = run_script(train_dvae.main, "tokenizer=vqgan", "--help")
    assert status == 0
    assert "model.network.encoder.attention = true" in printed


def test_the_default_networks_have_tamings_tensors() -> None:
    with torch.device("meta"):
        encoder, decoder = Encoder(NetworkConfig()), Decoder(NetworkConfig())
    shapes = {name: tuple(value.shape) for name, value in encoder.state_dict().items()}
    assert shapes["down.4.attn.1.proj_out.weight"] == (512, 512, 1, 1)
    assert shapes["down.2.block.0.nin_shortcut.weight"] == (256, 128, 1, 1)
    assert shapes["down.3.downsample.conv.weight"] == (256, 256, 3, 3)
    assert shapes["mid.attn_1.norm.weight"] == (512,)
    assert "down.4.downsample.conv.weight" not in shapes
    up = {name: tuple(value.shape) for name, value in decoder.state_dict().items()}
    assert up["up.4.block.2.conv2.weight"] == (512, 512, 3, 3)
    assert up["up.3.block.0.nin_shortcut.weight"] == (256, 512, 1, 1)
    assert "up.0.upsample.conv.weight" not in up
    # Encoder and decoder of the f16 release have 29 and 42 million parameters.
    count = {
        "encoder": sum(map(math.prod, shapes.values())),
        "decoder": sum(map(math.prod, up.values())),
    }
    assert {name: round(n / 1e6) for name, n in count.items()} == {"encoder": 29, "decoder": 42}
