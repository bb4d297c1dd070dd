"""What evaluate.py measures of each kind of model, held to training's own figures and to cases."""

import json
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from builders import build, inputs, tiny, tiny_model
from PIL import Image
from rankers import COLOURS, colour_ranker, plain, untrained

import evaluate
from dalle.config import Sampling
from dalle.likelihood import log_likelihood
from dalle.metrics import held_out_losses
from dalle.transformer import Transformer
from dalle_base.common.images import to_array, to_tensor
from dalle_base.data.batches import ImageDataset
from dalle_base.data.shapes import example
from dalle_base.data.sources.base import Record
from dalle_base.data.text import PADDING
from dalle_evaluation import drawings, exact_match
from dalle_evaluation.intervals import Interval, OfMean, interval, ratio
from dalle_evaluation.metrics.codes import perplexity
from dalle_evaluation.nats import measure_nats
from dalle_evaluation.nearest import nearest_rows, open_training, small_pixels
from dalle_evaluation.reconstructions import measure_reconstructions
from dalle_evaluation.report import Report
from dalle_evaluation.request import Evaluation
from dalle_evaluation.scores import Beside, HeldOutImages, scores
from dalle_evaluation.text_to_image import on_scenes
from dual_encoder.checkpoint import save_dual_encoder
from dvae.checkpoint import save_tokenizer
from dvae.config import DVAEConfig, NetworkConfig, ObjectiveConfig
from dvae.kinds import SavedTokenizer
from dvae.metrics import measure
from dvae.model import DiscreteVAE
from dvae.tokenizer import ImageTokenizer, LossReport
from dvae.vqgan.config import NetworkConfig as VQGANNetwork
from dvae.vqgan.config import VQGANConfig
from dvae.vqgan.model import VQGAN
from experiments.ablation.work import numbers

Script = Callable[..., tuple[int, str, str]]


def tokenizer_with(**objective: Any) -> DiscreteVAE:
    torch.manual_seed(0)
    network = NetworkConfig(width=8, groups=3, blocks=1, decoder_init=8)
    config = DVAEConfig(16, 4, 13, network, ObjectiveConfig(**objective))
    return DiscreteVAE(config).eval().requires_grad_(False)


def noise(count: int, size: int = 16) -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    return [rng.integers(0, 256, (3, size, size), dtype=np.uint8) for _ in range(count)]


TRAINED = {"kl_weight": 1.0, "kl_updates": 0, "straight_through": True, "temperature_start": 0.1}


def test_the_bound_is_the_negative_of_the_training_loss_with_kl_weight_1() -> None:
    model, images = tokenizer_with(**TRAINED, logit_scale=1e5), noise(5)  # one code is certain
    loss = model.loss(to_tensor(images), 0).total
    found: dict[str, Any] = {**measure_reconstructions(model, images, None)}
    assert np.mean(found["elb_bits"]) == pytest.approx(-float(loss) / math.log(2), rel=1e-5)
    assert np.allclose(found["elb_bits"], -(found["nll_bits"] + found["kl_bits"]))
    assert len(set(found["nll_bits"])) == 5


def test_where_codes_are_uncertain_the_bound_is_the_mean_over_those_drawn() -> None:
    model, pixels = tokenizer_with(**TRAINED, logit_scale=3.0), to_tensor(noise(4))
    torch.manual_seed(0)
    logged = [model.loss(pixels, 0).metrics for _ in range(150)]
    generator = torch.Generator().manual_seed(0)
    found = [model.elb(pixels, generator) for _ in range(150)]
    kl = torch.stack([each.kl.mean() for each in found]) / math.log(2)
    assert torch.allclose(kl, torch.tensor(float(logged[0]["kl_bits"])))
    expected = np.array([float(each["nll_bits"]) for each in logged])
    nll = np.array([float(each.nll.mean()) for each in found]) / math.log(2)
    error = math.sqrt((expected.var() + nll.var()) / 150)
    assert error > 0
    assert nll.mean() == pytest.approx(expected.mean(), abs=4 * error)


def test_a_tokenizer_without_this_likelihood_gets_each_images_likeliest_scale() -> None:
    images = noise(3)
    of_gaussian, *constants = (
        measure_reconstructions(tokenizer_with(logit_scale=1e5, **each), images, None)["nll_bits"]
        for each in (
            {"likelihood": "gaussian", "scale": "constant"},
            *({"scale": "constant", "constant_ln_b": b} for b in (-2.0, -1.0, -0.5, 0.0)),
        )
    )
    assert all(np.all(of_gaussian <= each) for each in constants)


@pytest.mark.parametrize("size", [2, 64])
def test_reconstructions_are_measured_as_in_training_whatever_the_batch(size: int) -> None:
    model, images = tokenizer_with(), noise(7)
    found = measure_reconstructions(model, images, None, batch_size=size)
    whole = measure_reconstructions(model, images, None)
    assert found["elb_bits"] == pytest.approx(whole["elb_bits"], rel=1e-5)
    expected = measure(model, images)
    assert {k: interval(found[k], 5).value for k in expected} == pytest.approx(expected, rel=1e-5)


def test_the_interval_of_a_ratio_is_that_of_whole_images() -> None:
    rng = np.random.default_rng(0)
    stated = rng.integers(1, 4, 200)
    held = np.array([rng.binomial(k, 0.7) for k in stated])
    found = interval(ratio(held, stated, 1), 500)
    slow = []
    for _ in range(500):
        chosen = rng.integers(200, size=200)
        slow.append(held[chosen].sum() / stated[chosen].sum())
    assert found.value == held.sum() / stated.sum()
    assert found[1:] == pytest.approx(np.percentile(slow, [2.5, 97.5]), abs=0.02)


def test_intervals_of_counts_surround_the_figure_and_stay_below_all() -> None:
    rows = np.eye(30, dtype=np.int32)  # each image has a code of its own
    figure = interval(OfMean(rows, lambda means: float((means > 0).mean()), 1), 200)
    assert figure.value == figure.high == 1
    assert 0.7 < figure.low < 1
    spread = interval(OfMean(rows, perplexity, 30), 200)
    assert spread.low < spread.value == pytest.approx(30) == spread.high


def test_nats_are_the_training_loss_and_the_likelihood_token_by_token() -> None:
    model = build()  # of 3 x 4 codes
    tokens, codes = inputs(model, 5)
    tokens[1, 1:], tokens[2, 2:] = PADDING, PADDING
    nats = measure_nats(model, tokens, codes)
    expected = held_out_losses(model, tokens, codes)
    assert nats.image.mean().item() == pytest.approx(expected["held_out_image_loss"], rel=1e-5)
    text = nats.text.sum() / nats.text_tokens.sum()
    assert text.item() == pytest.approx(expected["held_out_text_loss"], rel=1e-5)
    assert nats.text_tokens.tolist() == [3, 1, 2, 3, 3]
    assert torch.allclose(nats.image.sum(1).float(), -log_likelihood(model, tokens, codes))
    logits = model.logits(tokens, codes)[1].log_softmax(-1)
    assert nats.image[4, 7].item() == pytest.approx(-logits[4, 7, codes[4, 7]].item(), rel=1e-5)


def test_batches_of_nats_are_small_where_there_are_many_logits(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model, batches = build(), []
    tokens, codes = inputs(model, 5)
    whole, logits = measure_nats(model, tokens, codes), Transformer.logits
    monkeypatch.setattr("dalle_evaluation.nats.MOST_LOGITS", 2 * 12 * tiny().image_vocab)
    monkeypatch.setattr(
        Transformer, "logits", lambda self, *x: (batches.append(len(x[0])), logits(self, *x))[1]
    )
    assert torch.allclose(measure_nats(model, tokens, codes).image, whole.image)
    assert batches == [2, 2, 1]


class Blurred(ImageTokenizer):
    """Keeps the mean colour of an image, in 1,000 codes."""

    def __init__(self) -> None:
        super().__init__()
        self.vocab_size, self.image_size, self.rows, self.columns = 1000, 12, 1, 1
        self.weight = torch.nn.Parameter(torch.ones(()))

    def encode(self, images: torch.Tensor) -> torch.Tensor:
        red, green, blue = (images.mean(dim=(2, 3)) * 9).round().long().unbind(1)
        return (100 * red + 10 * green + blue)[:, None, None]

    def decode(self, codes: torch.Tensor) -> torch.Tensor:
        colour = torch.stack([codes // 100, codes // 10 % 10, codes % 10], dim=1)[..., 0]
        return (colour / 9)[..., None].expand(-1, -1, 12, 12)

    def loss(self, images: torch.Tensor, step: int) -> LossReport:
        raise NotImplementedError


class Listed:
    """A source of images."""

    def __init__(self, images: Sequence[Image.Image]) -> None:
        self.images = images

    def __len__(self) -> int:
        return len(self.images)

    def record(self, index: int) -> Record:
        return Record(str(index), self.images[index], "thing")

    def has_caption(self, index: int) -> bool:
        return True


def grey(value: int) -> Image.Image:
    return Image.new("RGB", (12, 12), (value, value, value))


def test_a_copy_of_a_training_image_is_at_0_and_counts_as_a_near_copy() -> None:
    model, known = Blurred(), [grey(0), grey(57), grey(255)]
    held_out = [grey(v) for v in (85, 113, 142, 170, 198)]
    training = open_training(
        model, ImageDataset(Listed(known), 12, None), held_out, {"pixels": small_pixels}
    )
    near = training.nearest([grey(255), grey(57), grey(142), grey(62)])["pixels"]
    # As it is decoded: 62 would be nearer to 57 than to what the decoder makes of it.
    assert near.distances[:2].tolist() == [0, 0]
    assert near.indices.tolist() == [2, 1, 1, 1]
    assert near.distances[2] == pytest.approx((142 - 57) / 255, abs=1e-3)
    assert near.threshold == pytest.approx(28 / 255, rel=0.3)
    ranker, captions = colour_ranker(), ["a", "b", "c", "d"]
    given = HeldOutImages(captions, held_out[:4], held_out[:4])
    sampled = [grey(255), grey(57), grey(142), grey(142)]
    beside = Beside(sampled=training.nearest(sampled), held_out=training.held_out)
    found = scores(ranker, sampled, given, 20, beside=beside)
    assert found["near_copies_pixels"].sampled.value == 0.5
    assert found["near_copies_pixels"].real.value == 0.2  # one of five: no share of 5 % of them
    assert found["nearest_training_pixels"].sampled.value == pytest.approx(85 / 255 / 2, abs=1e-3)


def test_the_nearest_rows_are_those_of_all_differences() -> None:
    rng = np.random.default_rng(0)
    rows, others = rng.normal(size=(2, 9, 5)).astype(np.float32)
    every = np.linalg.norm(rows[:, None] - others[None], axis=2)
    distances, indices = nearest_rows(rows, others, together=4)
    assert indices.tolist() == every.argmin(axis=1).tolist()
    assert distances == pytest.approx(every.min(axis=1), rel=1e-5)


def test_equal_candidates_have_no_diversity_and_deaf_ones_that_of_real_images() -> None:
    ranker = colour_ranker()
    captions, real = [f"a {c} thing" for c in COLOURS], [plain(c) for c in COLOURS]
    given = HeldOutImages(captions, real, real)

    def diversity(candidates: list[list[Image.Image]]) -> tuple[Interval, Interval]:
        score = scores(ranker, real, given, 20, beside=Beside(candidates))["diversity"]
        return score.sampled, score.real

    none, ceiling = diversity([[image] * 3 for image in real])
    assert none == (0, 0, 0)
    assert ceiling.value > 0.5
    all_colours, again = diversity([real, real[::-1]])
    assert all_colours.value == pytest.approx(ceiling.value)
    assert again == ceiling
    two, _ = diversity([[real[0], real[0], real[1]]])
    apart = ranker.image_features(real[:2])
    assert two.value == pytest.approx(2 / 3 * (apart[0] - apart[1]).norm().item(), rel=1e-5)
    assert "diversity" not in scores(ranker, real, given, 5)
    one_caption = HeldOutImages(["a"] * 3, real, real)
    assert "diversity" not in scores(ranker, real, one_caption, 5, beside=Beside([real]))


def test_seen_and_held_out_combinations_are_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = [example("test", 1, i) for i in range(6)]
    right = {caption: image for image, caption in seen}
    white = Image.new("RGB", (64, 64), "white")
    asked: list[str] = []

    def sample(_: object, captions: list[str], *__: object) -> SimpleNamespace:
        asked.extend(captions)
        images = [right.get(caption, white) for caption in captions]
        return SimpleNamespace(images=images, captions=captions)

    monkeypatch.setattr(exact_match, "sample", sample)
    monkeypatch.setattr(exact_match, "reconstructions", lambda _, images: images)
    model: Any = SimpleNamespace(tokenizer=SimpleNamespace(image_size=64))
    found = on_scenes(Evaluation(Path(), checker=6, resamples=9), model, Sampling())
    assert found["sample_exact"].value == 1
    assert found["compositional_sample_exact"].value == 0
    assert found["compositional_sample_colour"].value == 0
    for before in ("", "compositional_"):
        assert found[f"{before}reconstruction_exact"] == (1, 1, 1)
    assert asked[6:] == [example("compositional", 1, i)[1] for i in range(6)]
    only = Evaluation(Path(), checker=6, split="compositional", resamples=9)
    alone = on_scenes(only, model, Sampling())
    assert alone["sample_exact"].value == 0
    assert not any(name.startswith("compositional") for name in alone)
    lines = Report(found).lines()
    assert any(
        line.split()[:2] == ["compositional_sample_exact", "0.0000"]
        and line.endswith("reconstructions 1.0000 [1.0000, 1.0000]")
        for line in lines
    )


@pytest.fixture
def config(tmp_path: Path, image_folder: Path) -> Path:
    path = tmp_path / "data.yaml"
    path.write_text(f"data: {{path: {image_folder}, held_out_path: {image_folder}}}")
    return path


@pytest.fixture
def recorded(
    config: Path, tmp_path: Path, run_script: Script, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., tuple[dict[str, Any], str]]:
    """Evaluates a folder: the record, and all that was printed."""
    missing = "efficientnet_lite_pytorch"  # to load it takes longer than all else here
    monkeypatch.setitem(__import__("sys").modules, missing, None)

    def run(folder: Path, *arguments: object) -> tuple[dict[str, Any], str]:
        shared = ("--config", config, "--resamples", "60", "--json", tmp_path / "f.json")
        status, printed, error = run_script(evaluate.main, folder, *shared, *arguments)
        assert status == 0, error
        return json.loads((tmp_path / "f.json").read_text()), printed + error

    return run


def test_a_text_to_image_model_is_measured_whole(toy: Path, recorded, tmp_path: Path) -> None:
    out = tmp_path / "drawn"
    record, _ = recorded(toy, "--scores", "4", "--diversity", "2", "--out", out)
    flat = dict(numbers(record))
    assert record["psnr"] == flat["psnr"]
    for name in ("psnr", "elb_bits", "codes_used", "held_out_image_loss", "held_out_text_loss"):
        assert flat[f"intervals.{name}.low"] <= flat[name] <= flat[f"intervals.{name}.high"]
    nats = np.array(record["nats_by_position"])
    assert nats.shape == (4, 4)
    assert nats.mean() == pytest.approx(record["held_out_image_loss"])
    for name in ("diversity", "nearest_training_scorer", "near_copies_pixels", "clip_score"):
        assert {f"scores.{name}.drawn.value", f"scores.{name}.real.high"} <= set(flat)
    names = {path.name for path in out.iterdir()}
    assert names == {
        *("worst-psnr.png", "nats-by-position.png"),
        *("nearest-scorer.png", "nearest-pixels.png"),
    }


def test_what_is_switched_off_is_neither_measured_nor_drawn(
    toy: Path, recorded, tmp_path: Path
) -> None:
    before = {*tmp_path.rglob("*.png")}
    record, printed = recorded(toy, "--scores", "4", "--diversity", "0", "--no-nearest")
    assert not [name for name in record["scores"] if name.startswith(("diver", "near"))]
    assert "drawn:" not in printed
    assert {*tmp_path.rglob("*.png")} == before


def test_nearest_images_are_looked_for_among_so_many(toy: Path, recorded) -> None:
    _, printed = recorded(toy, "--scores", "2", "--training-images", "3")
    assert "among 3 of 12 (--training-images)" in printed


def test_a_tokenizer_is_recognised(toy: Path, recorded) -> None:
    record, _ = recorded(toy / "tokenizer")
    assert {"elb_bits", "psnr", "ssim", "perplexity", "codes_used"} <= set(record)
    assert "held_out_image_loss" not in record


def test_a_vqgan_has_no_likelihood_which_is_said(tmp_path: Path, recorded) -> None:
    network = VQGANNetwork(
        width=8, multipliers=[1, 2], blocks=1, attention_levels=[], z_channels=8, code_width=4
    )
    config = VQGANConfig(image_size=16, grid=8, codebook_size=12, network=network)
    torch.manual_seed(0)
    saved = SavedTokenizer("vqgan", config)
    save_tokenizer(tmp_path / "vqgan", VQGAN(config).eval(), saved)
    record, printed = recorded(tmp_path / "vqgan")
    assert "psnr" in record
    assert "elb_bits" not in record
    assert "elb_bits: not measured (a tokenizer of this kind, VQGAN, has no likelihood)" in printed


def test_a_dual_encoder_is_recognised_and_has_intervals(tmp_path: Path, recorded) -> None:
    save_dual_encoder(tmp_path / "ranker", untrained())
    record, _ = recorded(tmp_path / "ranker")
    recalls = [record[f"{way}_recall_{k}"] for way in WAYS for k in (1, 5, 10)]
    assert record["mean_recall"] == pytest.approx(np.mean(recalls))
    assert {"mean_recall", "classification_of_100", "caption_to_picture_recall_5"} <= set(
        record["intervals"]
    )


WAYS = ("caption_to_picture", "picture_to_caption")


@pytest.mark.parametrize(
    ("make", "named"),
    [
        (lambda folder: None, "no checkpoint folder"),
        (lambda folder: folder.write_text("x"), "is a file; a model is a folder"),
        (lambda folder: folder.mkdir(), "it has no model.safetensors"),
        (lambda folder: unfinished(folder, "text: {}\nmodel: {}"), "is a run's checkpoint"),
        (lambda folder: unfinished(folder, "nonsense: 1"), "model"),
        (lambda folder: unfinished(folder, "tokenizer: dvae\nmodel: {}"), "model.safetensors"),
    ],
)
def test_bad_folders_are_one_line(
    make: Callable[[Path], object], named: str, tmp_path: Path, config: Path, run_script: Script
) -> None:
    make(tmp_path / "model")
    status, _, error = run_script(evaluate.main, tmp_path / "model", "--config", config)
    assert status == 2
    lines = [line for line in error.splitlines() if line.startswith("error:")]
    assert len(lines) == 1
    assert named in lines[0]


def unfinished(folder: Path, text: str) -> None:
    """A folder with a config, and weights that are none."""
    folder.mkdir()
    (folder / "config.yaml").write_text(text)
    (folder / "model.safetensors").write_bytes(b"none")


def test_too_few_held_out_images_are_said_before_anything_is_measured(
    toy: Path, image_folder: Path, config: Path, run_script: Script
) -> None:
    config.write_text(f"data: {{path: {image_folder}, held_out_share: 0.25}}")
    status, _, error = run_script(evaluate.main, toy, "--config", config, "--scores", "4")
    assert status == 2
    assert "scores of 4 captions out of 2 held-out images" in error.splitlines()[-1]
    assert "reconstructions" not in error


def test_a_folder_that_cannot_be_drawn_into_is_one_line(
    toy: Path, config: Path, run_script: Script
) -> None:
    status, printed, error = run_script(evaluate.main, toy, "--config", config, "--out", config)
    assert status == 2
    assert "--out" in error.splitlines()[-1]
    assert not printed


def test_the_worst_come_first_over_their_own_reconstructions(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shown: dict[str, tuple[Any, ...]] = {}

    def over(above, below, labels, title) -> Image.Image:
        shown[title.split(" by ")[1].split(":")[0]] = ([*above], [*below], labels)
        return above[0]

    monkeypatch.setattr(drawings, "_over", over)
    model = tiny_model().tokenizer
    arrays = [to_array(Image.new("RGB", (16, 16), (40 * i, 0, 0))) for i in range(3)]
    values = {"psnr": np.array([20.0, 10.0, 30.0]), "lite0_distance": np.array([1.0, 2.0, 3.0])}
    drawings.draw_worst(tmp_path, model, arrays, values)
    first = {name: [image.getpixel((0, 0))[0] for image in each[0]] for name, each in shown.items()}
    assert first == {"psnr": [40, 0, 80], "lite0_distance": [80, 40, 0]}
    above, below, labels = shown["psnr"]
    assert labels == ["psnr 10.00", "psnr 20.00", "psnr 30.00"]
    rebuilt = model.reconstruct(to_tensor([to_array(image) for image in above]))
    assert np.allclose([to_array(x) for x in below], (rebuilt * 255).round().numpy(), atol=1)
