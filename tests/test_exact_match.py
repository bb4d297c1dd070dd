"""The evaluator's figures against plain references: bounds, positions, copies, candidates."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

import evaluate
from dalle.config import Sampling
from dalle.text_to_image import Samples, TextToImage
from dalle_base.common.images import to_tensor
from dalle_base.data.shapes import example
from dalle_evaluation import exact_match, nearest
from dalle_evaluation.intervals import OfMean, interval, ratio
from dalle_evaluation.metrics import base, codes, diversity
from dalle_evaluation.metrics import nearest as nearest_metric
from dalle_evaluation.nats import measure_nats
from dalle_evaluation.nearest import nearest_rows, open_training
from dalle_evaluation.reconstructions import measure_reconstructions, reconstructions
from dvae.config import DVAEConfig, NetworkConfig, ObjectiveConfig
from dvae.metrics import code_usage
from dvae.model import DiscreteVAE

Script = Callable[..., tuple[int, str, str]]


def dvae(**objective: object) -> DiscreteVAE:
    torch.manual_seed(0)
    network = NetworkConfig(
        width=8, groups=2, blocks=1, bottleneck=2, decoder_init=8, stem_stride=2
    )
    sizes = {"image_size": 16, "grid": 4, "codebook_size": 12}
    return DiscreteVAE(
        DVAEConfig(**sizes, network=network, objective=ObjectiveConfig(**objective))  # type: ignore
    ).eval()


def test_the_bound_is_the_training_loss_where_the_posterior_is_certain() -> None:
    """With logits so large that every draw is the largest, no relaxation is left in the loss."""
    model = dvae(logit_scale=1e5, kl_weight=1.0, kl_updates=1, temperature_end=0.05)
    images = torch.rand(3, 3, 16, 16)
    found = model.elb(images, torch.Generator().manual_seed(0))
    assert found is not None
    report = model.loss(images, 10**6)
    assert -found.elb.mean().item() == pytest.approx(report.total.item(), rel=1e-4)
    assert found.kl.mean().item() == pytest.approx(16 * np.log(12) / (3 * 16 * 16), rel=1e-4)


def test_a_bound_is_no_better_than_what_its_best_code_allows() -> None:
    model = dvae()
    images = torch.rand(2, 3, 16, 16)
    found = model.elb(images, torch.Generator().manual_seed(0))
    again = model.elb(images, torch.Generator().manual_seed(0))
    other = model.elb(images, torch.Generator().manual_seed(1))
    assert found is not None
    assert again is not None
    assert other is not None
    assert torch.equal(found.elb, again.elb)
    assert not torch.equal(found.elb, other.elb)  # a flat posterior draws other codes
    assert (found.kl >= 0).all()


def test_usage_is_that_of_the_trainings_own_figures() -> None:
    model = dvae()
    images = [
        np.random.default_rng(i).integers(0, 256, (3, 16, 16), dtype=np.uint8) for i in range(5)
    ]
    values = measure_reconstructions(model, images, None, batch_size=2)
    expected = code_usage(model.encode(to_tensor(images)), 12)
    for name in ("perplexity", "codes_used"):
        each = values[name]
        assert isinstance(each, OfMean)
        assert each.of(each.rows.mean(axis=0)) == pytest.approx(expected[name], rel=1e-6)
    assert codes.perplexity(np.array([3.0, 0.0, 3.0])) == pytest.approx(2)


def test_nats_by_position_are_the_held_out_loss(toy: Path) -> None:
    from dalle.checkpoint import load_text_to_image

    model = load_text_to_image(toy)
    length, vocab = model.transformer.stream.image_length, model.transformer.config.image_vocab
    tokens = model.tokens(["a cat", "one two three", "x"])
    generator = torch.Generator().manual_seed(0)
    image = torch.randint(0, vocab, (3, length), generator=generator)
    nats = measure_nats(model.transformer, tokens, image)
    with torch.no_grad():
        losses = model.transformer.loss(tokens, image)
    assert nats.image.shape == (3, length)
    assert nats.image.mean().item() == pytest.approx(losses.image.item(), rel=1e-5)
    per_token = nats.text.sum() / nats.text_tokens.sum()
    assert per_token.item() == pytest.approx(losses.text.item(), rel=1e-5)


def test_a_copied_training_image_is_found_and_counted() -> None:
    model = dvae()
    pixels = np.random.default_rng(0).integers(0, 256, (40, 3, 16, 16), dtype=np.uint8)
    made = [Image.fromarray(each.transpose(1, 2, 0)) for each in pixels]
    spaces = {"pixels": nearest.small_pixels}
    dataset = DatasetOf(pixels[:20])
    training = open_training(model, dataset, made[20:], spaces)  # type: ignore
    copies = reconstructions(model, made[3:5])
    near = training.nearest([*copies, Image.new("RGB", (16, 16), "white")])["pixels"]
    assert near.distances[:2] == pytest.approx([0, 0])
    assert near.indices[:2].tolist() == [3, 4]
    assert near.distances[2] > near.threshold > 0
    pairs = base.Pairs([], [], np.empty((0, 1)), np.empty((0, 1)), neighbours={"pixels": near})
    figures = nearest_metric.measure(pairs)
    assert np.asarray(figures["near_copies_pixels"]).tolist() == [1, 1, 0]
    held_out = training.held_out["pixels"]
    share = np.mean(held_out.distances <= held_out.threshold)
    assert share == pytest.approx(nearest.HELD_OUT_SHARE, abs=0.06)


class DatasetOf:
    """Arrays as a data set of examples."""

    def __init__(self, pixels: np.ndarray) -> None:
        self.pixels = pixels

    def __len__(self) -> int:
        return len(self.pixels)

    def __getitem__(self, place: tuple[int, int]) -> SimpleNamespace:
        return SimpleNamespace(pixels=self.pixels[place[0]])


def test_the_nearest_rows_are_those_of_brute_force() -> None:
    generator = np.random.default_rng(1)
    rows, others = generator.normal(size=(7, 5)), generator.normal(size=(11, 5))
    rows[2] = others[4]
    distances, indices = nearest_rows(rows, others, together=3)
    apart = np.linalg.norm(rows[:, None] - others[None], axis=2)
    assert indices.tolist() == apart.argmin(axis=1).tolist()
    assert distances == pytest.approx(apart.min(axis=1))
    assert distances[2] == 0


def test_equal_candidates_have_no_diversity() -> None:
    features = np.array([[[1.0, 0], [1, 0], [1, 0]], [[1, 0], [0, 1], [-1, 0]]])
    empty = np.empty((0, 2))
    found = np.asarray(diversity.measure(base.Pairs([], [], empty, empty, features))["diversity"])
    assert found[0] == 0
    assert found[1] == pytest.approx((2 * np.sqrt(2) + 2) / 3)
    assert diversity.measure(base.Pairs([], [], empty, empty)) == {}


def test_a_ratios_interval_holds_it() -> None:
    found = interval(ratio(np.array([1.0, 4, 0, 3]), np.array([2.0, 4, 1, 3]), 1), 200)
    assert found.value == pytest.approx(0.8)
    assert found.low < 0.8 < found.high <= 1
    rare = interval(ratio(np.array([0.0, 0, 0, 2]), np.array([0.0, 0, 0, 2]), 1), 200)
    assert rare == (1, 1, 1)  # most resamples count nothing


def scenes(count: int, each: int, right: Callable[[int, int], bool]) -> Samples:
    """Candidates of scenes: the real image where one is right, else a blank."""
    images, captions = [], []
    for i in range(count):
        image, caption = example("test", 1, i, 64)
        for k in range(each):
            images.append(image if right(i, k) else Image.new("RGB", image.size))
            captions.append(caption)
    zeros = torch.zeros(len(images))
    blank = torch.zeros(len(images), 4, 4, dtype=torch.long)
    return Samples(images, blank, zeros, captions, [0] * len(images), [0] * len(images))  # type: ignore


def test_the_best_of_more_candidates_is_the_rerankers(monkeypatch: pytest.MonkeyPatch) -> None:
    samples = scenes(4, 5, lambda i, k: k == i)  # scene 0 is right at once, scene 3 in its fourth
    monkeypatch.setattr(exact_match, "sample", lambda *_: samples)
    scores = torch.tensor([[5.0, 0, 0, 0, 9], [0, 5, 0, 0, 0], [5, 0, 0, 0, 0], [0, 0, 0, 0, 1]])
    model = SimpleNamespace(rank=lambda _: scores.flatten())
    found = exact_match.exact_match_of_samples(model, Sampling(candidates=5), "test", 4)  # type: ignore
    exact = {name: np.asarray(each) for name, each in found.items() if name.endswith("exact")}
    means = {name: float(each.mean()) for name, each in exact.items()}
    assert means == {
        "sample_exact": 0.25,
        "sample_best_of_4_exact": 0.5,
        "sample_any_of_4_exact": 1.0,
        "sample_best_of_5_exact": 0.25,
        "sample_any_of_5_exact": 1.0,
    }
    monkeypatch.setattr(exact_match, "sample", lambda *_: scenes(4, 1, lambda i, k: i == 2))
    one = exact_match.exact_match_of_samples(model, Sampling(candidates=1), "test", 4)  # type: ignore
    assert [name for name in one if "of" in name] == []


def test_seen_and_unseen_combinations_stand_apart(
    toy: Path, tmp_path: Path, run_script: Script
) -> None:
    arguments = [toy, "--checker", "3", "--json", tmp_path / "both.json", "--resamples", "10"]
    status, printed, error = run_script(evaluate.main, *arguments)
    assert status == 0, error
    both = json.loads((tmp_path / "both.json").read_text())
    assert {"sample_exact", "compositional_sample_exact"} <= both.keys()
    assert both["intervals"]["sample_exact"].keys() == {"low", "high"}
    assert "reconstructions" in next(
        x for x in printed.splitlines() if x.startswith("sample_exact")
    )
    arguments[4] = tmp_path / "one.json"
    status, _, error = run_script(evaluate.main, *arguments, "--split", "compositional")
    assert status == 0, error
    one = json.loads((tmp_path / "one.json").read_text())
    assert one["sample_exact"] == both["compositional_sample_exact"]
    assert not any(name.startswith("compositional") for name in one)


def test_candidates_without_a_reranker_are_one_line(
    toy: Path, tmp_path: Path, run_script: Script, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        TextToImage, "batches", lambda *_, **__: pytest.fail("something was sampled")
    )
    bare = tmp_path / "bare"
    shutil.copytree(toy, bare, ignore=shutil.ignore_patterns("reranker"))
    status, _, error = run_script(evaluate.main, bare, "--checker", "2", "--candidates", "4")
    assert status == 2
    assert "--candidates needs a reranker" in error.splitlines()[-1]
    status, _, error = run_script(evaluate.main, toy, "--candidates", "4")
    assert status == 2
    assert "give --judge as well" in error


def test_drawings_are_asked_for(
    toy: Path, tmp_path: Path, run_script: Script, image_folder: Path
) -> None:
    config = tmp_path / "data.yaml"
    config.write_text(f"data: {{path: {image_folder}, held_out_share: 0.5}}")
    arguments = [toy, "--config", config, "--images", "4", "--resamples", "5"]
    json_file = tmp_path / "figures.json"
    assert run_script(evaluate.main, *arguments, "--json", json_file)[0] == 0
    out = tmp_path / "drawn"
    status, printed, error = run_script(evaluate.main, *arguments, "--out", out)
    assert status == 0, error
    assert {"nats-by-position.png", "worst-psnr.png"} <= {path.name for path in out.iterdir()}
    record = json.loads(json_file.read_text())
    grid = np.array(record["nats_by_position"])
    assert grid.mean() == pytest.approx(record["held_out_image_loss"], rel=1e-5)
    assert "drawn: " in printed + error
