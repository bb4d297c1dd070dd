"""The judge: ranks, what it is shown, evaluate.py --judge on a tiny model, SSIM and distances."""

import dataclasses
import io
import json
import shutil
from argparse import Namespace
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from builders import tiny_model
from PIL import Image
from rankers import untrained
from torch import Tensor
from torch.nn import functional as F

import evaluate
from dalle.checkpoint import save_text_to_image
from dalle.config import Sampling, SamplingDefaults
from dalle.text_to_image import Samples, TextToImage
from dalle_base.common.errors import UserError
from dalle_base.common.images import to_array, to_tensor
from dalle_base.data.sources import data_of, open_sources
from dalle_evaluation.judge import (
    chance,
    features,
    finds_own,
    found_ranks,
    same_codes,
    similarities,
    verdict,
)
from dalle_evaluation.judge_options import Judging
from dalle_evaluation.judged_cases import CONCEPTS, KNOWN, PAIRS, Exam, open_exam
from dalle_evaluation.judged_models import (
    ONE,
    REAL,
    RECONSTRUCTIONS,
    Judge,
    judge_images,
    judge_model,
    judge_samples,
    nearest_training,
    own_codes,
)
from dalle_evaluation.reconstructions import measure_reconstructions
from dalle_evaluation.request import TOGETHER, evaluation_of
from dual_encoder.checkpoint import save_dual_encoder
from dvae.kinds import SavedTokenizer
from dvae.metrics import ssim
from dvae.perceptual import perceptual_distance
from experiments import choose_sampling

Script = Callable[..., tuple[int, str, str]]
TRAINED = {"ink": "0123459a", "oil": "01234a", "wax": "0129"}
"""Concepts that artists drew for training: "a" looks like "0"."""
UNSEEN_PAIRS = {"oil": "5", "wax": "3"}
UNSEEN_CONCEPTS = {"ink": "678", "oil": "67", "wax": "8"}


class Pooled(torch.nn.Module):
    """A feature network that sees coarse pixels, and so knows each concept of this file."""

    def features(self, images: Tensor, size: int) -> Tensor:
        assert images.shape[-2:] == (size, size)
        return F.adaptive_avg_pool2d(images, 8).flatten(1)

    def activations(self, images: Tensor, blocks: Sequence[int], size: int) -> list[Tensor]:
        return [F.avg_pool2d(images, 1 + block) for block in blocks[:2]]


def drawing(concept: str, artist: str) -> Image.Image:
    """A pattern of the concept's own, a little different by each artist."""
    rng = np.random.default_rng(0 if concept == "a" else int(concept))
    pattern = rng.integers(40, 216, (8, 8, 3)).repeat(2, axis=0).repeat(2, axis=1)
    return Image.fromarray((pattern + 5 * sorted(TRAINED).index(artist)).astype(np.uint8))


def write_rows(path: Path, drawn: dict[str, str], **changes: list[Any]) -> None:
    import datasets

    rows = [(concept, artist) for artist, concepts in drawn.items() for concept in concepts]
    cells = []
    for concept, artist in rows:
        buffer = io.BytesIO()
        drawing(concept, artist).save(buffer, "png")
        cells.append({"bytes": buffer.getvalue(), "path": None})
    columns = {
        "image": cells,
        "caption": [f"thing {concept}" for concept, _ in rows],
        "concept": [concept for concept, _ in rows],
        "artist": [artist for _, artist in rows],
    }
    kept = {name: column for name, column in {**columns, **changes}.items() if column}
    names = {name: datasets.Value("string") for name in kept} | {"image": datasets.Image()}
    data = datasets.Dataset.from_dict(kept, features=datasets.Features(names))
    data.to_parquet(str(path))


@pytest.fixture
def config(tmp_path: Path) -> Path:
    """A config of drawings by three artists, with held-out pairs, and unseen concepts beside."""
    write_rows(tmp_path / "train.parquet", TRAINED)
    write_rows(tmp_path / "pairs.parquet", UNSEEN_PAIRS)
    write_rows(tmp_path / "held_out_concepts.parquet", UNSEEN_CONCEPTS)
    data = {
        "source": "datasets",
        "path": str(tmp_path / "train.parquet"),
        "held_out_path": str(tmp_path / "pairs.parquet"),
        "artist_column": "artist",
    }
    path = tmp_path / "config.yaml"
    path.write_text(json.dumps({"data": data}))
    return path


def opened(config: Path, size: int = 16, **options: Any) -> Exam:
    data = data_of(config)
    return open_exam(data, open_sources(data), Judging(**options), size)


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny text-to-image model's folder, with a reranker."""
    folder, model = tmp_path_factory.mktemp("saved") / "model", tiny_model()
    save_text_to_image(folder, model, SavedTokenizer(model=model.tokenizer.config))
    save_dual_encoder(folder / "reranker", untrained())
    return folder


@pytest.fixture
def folder(saved: Path, tmp_path: Path) -> Path:
    """A copy of that folder, to be written into."""
    return Path(shutil.copytree(saved, tmp_path / "model"))


@pytest.fixture
def _pooled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dalle_base.common.lite0.Lite0", Pooled)
    monkeypatch.setattr("experiments.choose_sampling.Lite0", Pooled)


def test_ranks_are_those_of_a_sorted_list() -> None:
    images, references = torch.randn(2, 30, 4)
    near = similarities(images, references).tolist()
    expected = [1 + sorted(row, reverse=True).index(row[i]) for i, row in enumerate(near)]
    assert found_ranks(images, references).tolist() == expected
    assert len(set(expected)) > 5
    assert found_ranks(images, images).tolist() == [1] * 30


def test_what_all_references_share_and_a_features_scale_count_for_nothing() -> None:
    images, references = torch.randn(7, 5), torch.randn(9, 5)
    mean, spread = references.mean(dim=0), references.std(dim=0, correction=0)
    expected = [
        [
            float(F.cosine_similarity((i - mean) / spread, (r - mean) / spread, dim=0))
            for r in references
        ]
        for i in images
    ]
    torch.testing.assert_close(similarities(images, references), torch.tensor(expected))
    scale, offset = torch.tensor([1, 2, 0.1, 40, 3]), torch.tensor([0, 5, -1, 100, 2])
    moved = similarities(images * scale + offset, references * scale + offset)
    torch.testing.assert_close(moved, similarities(images, references), rtol=0, atol=1e-5)


def test_a_network_to_which_all_is_alike_finds_nothing() -> None:
    assert found_ranks(torch.ones(7, 3), torch.ones(7, 3)).tolist() == [7] * 7


def test_random_features_find_as_many_as_chance_says() -> None:
    ranks = torch.cat([found_ranks(*torch.randn(2, 25, 8)) for _ in range(80)])
    for k in (1, 5):
        expected = chance(25, k)
        assert (ranks <= k).double().mean().item() == pytest.approx(expected, abs=0.03)
    assert chance(3, 5) == 1


def test_a_verdict_is_the_share_with_an_interval_around_it() -> None:
    found = verdict(torch.tensor([1] * 30 + [4] * 30 + [9] * 40), 500)
    assert found.top_1.value == pytest.approx(0.3)
    assert found.top_5.value == pytest.approx(0.6)
    for share in (found.top_1, found.top_5):
        half = 1.96 * np.sqrt(share.value * (1 - share.value) / 100)
        assert share.low == pytest.approx(share.value - half, abs=0.02)
        assert share.high == pytest.approx(share.value + half, abs=0.02)
    assert found.ranks[29:31] == [1, 4]


def test_features_see_images_of_any_size_enlarged_and_in_order() -> None:
    images = [drawing(c, "ink").resize((8 + int(c), 8 + int(c))) for c in "0123456789" * 2]
    found = features(Pooled(), images)
    assert found.shape == (20, 192)
    for i in (0, 15, 16, 19):  # either side of a batch's end
        torch.testing.assert_close(found[i], features(Pooled(), images[i : i + 1])[0])


def test_shares_of_codes_and_nearest_images() -> None:
    codes = torch.tensor([[1, 2, 3, 4], [5, 6, 7, 8]])
    assert same_codes(codes, torch.tensor([[1, 2, 0, 0], [5, 6, 7, 8]])).tolist() == [0.5, 1]
    training = torch.eye(4)[[0, 1, 2, 2]]  # the last is a copy
    images = torch.eye(4)[[0, 1, 2]]
    assert finds_own(images, training, [0, 2, 3]).tolist() == [1, 0, 1]


def test_cases_are_of_their_groups_and_references_of_the_other_artist(config: Path) -> None:
    exam = opened(config)
    assert (exam.reference, exam.artist) == ("ink", "oil")
    groups = {
        name: {(case.concept, case.artist) for case in cases} for name, cases in exam.groups.items()
    }
    twins = {("0", "oil"), ("a", "oil")}  # nobody could tell their references apart
    assert len(groups[KNOWN] & twins) == 1
    assert groups[KNOWN] | twins == {(c, "oil") for c in TRAINED["oil"]}
    assert groups[PAIRS] == {("5", "oil"), ("3", "wax")}
    assert groups[CONCEPTS] == {("6", "oil"), ("7", "oil")}
    for case in (case for cases in exam.groups.values() for case in cases):
        assert case.caption == f"thing {case.concept}, {case.artist} style"
        assert case.image.tobytes() == drawing(case.concept, case.artist).tobytes()
        assert case.reference.tobytes() == drawing(case.concept, "ink").tobytes()
    for case in exam.groups[KNOWN]:
        record = exam.training.record(case.index)
        assert (record.caption, record.artist) == (f"thing {case.concept}", case.artist)


def test_the_same_cases_each_time_and_fewer_are_the_first_of_more(config: Path) -> None:
    assert opened(config).groups == opened(config).groups
    for name, cases in opened(config, concepts=2).groups.items():
        assert cases == opened(config).groups[name][:2]
    assert opened(config, size=8).groups[KNOWN][0].reference.size == (8, 8)


def test_any_artist_may_be_captioned_or_found(config: Path) -> None:
    exam = opened(config, artist="all")
    known = [(case.concept, case.artist) for case in exam.groups[KNOWN]]
    assert {artist for _, artist in known} == {"oil", "wax"}
    assert len({concept for concept, _ in known}) == len(known)
    exam = opened(config, reference="wax", artist="ink")
    assert {case.artist for case in exam.groups[KNOWN]} == {"ink"}
    concepts = {case.concept.replace("a", "0") for case in exam.groups[KNOWN]}
    assert concepts == set("01239")  # those that wax drew too; 3 it drew unseen
    assert opened(config, artist="ink").reference == "oil"
    with pytest.raises(UserError, match="no images by 'chalk' in training; there are ink, oil"):
        opened(config, artist="chalk")


def test_a_group_without_data_is_left_out_with_a_line(
    config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = tmp_path / "held_out_concepts.parquet"
    other.rename(tmp_path / "elsewhere.parquet")
    assert set(opened(config).groups) == {KNOWN, PAIRS}
    assert "no held out concepts in this data" in capsys.readouterr().out
    exam = opened(config, held_out_concepts=str(tmp_path / "elsewhere.parquet"))
    assert set(exam.groups) == {KNOWN, PAIRS, CONCEPTS}


def exact(exam: Exam, **options: Any) -> Judge:
    return Judge(Pooled(), exam, Judging(resamples=20, **options))


def samples_of(images: list[Image.Image], codes: Tensor) -> Samples:
    zeros = [0] * len(images)
    return Samples(images, codes, torch.zeros(len(images)), [""] * len(images), zeros, zeros)


def test_real_images_find_their_concepts_and_wrong_ones_do_not(config: Path) -> None:
    judge, model = exact(opened(config)), tiny_model()
    real = judge_images(judge, KNOWN, model.tokenizer)[REAL]
    assert real.ranks == [1] * 5
    images = [case.image for case in judge.exam.groups[KNOWN]]
    samples = samples_of(images[1:] + images[:1], torch.zeros(5, 16))
    assert judge_samples(judge, KNOWN, model, samples)[ONE].top_1.value == 0


def test_of_several_candidates_the_first_and_the_rerankers_best_are_judged(config: Path) -> None:
    class Ranking:
        def rank(self, samples: Samples, _: float | None) -> Tensor:
            return torch.tensor([0.0, 1.0, 0.5]).repeat(len(samples.images) // 3)

    judge = exact(opened(config))
    images = [case.image for case in judge.exam.groups[KNOWN]]
    blank = Image.new("RGB", (16, 16), "white")
    candidates = [each for image in images for each in (blank, image, blank)]
    model: Any = Ranking()
    found = judge_samples(judge, KNOWN, model, samples_of(candidates, torch.zeros(15, 16)))
    assert set(found) == {ONE, "best_of_3"}
    assert found["best_of_3"].top_1.value == 1
    assert found[ONE].top_1.value <= 0.2


def test_copies_of_training_images_are_found_out(config: Path) -> None:
    judge, model = exact(opened(config)), tiny_model()
    images = [case.image for case in judge.exam.groups[KNOWN]]
    codes = model.codes(images)
    assert own_codes(judge, model, samples_of(images, codes)).value == 1
    assert own_codes(judge, model, samples_of(images, codes + 1)).value == 0
    found = nearest_training(judge, model.tokenizer, images)
    assert found["nearest_training_image"].value == 1
    assert found["nearest_training_image_of_reconstructions"].value < 1  # it is untrained
    others = nearest_training(judge, model.tokenizer, images[1:] + images[:1])
    assert others["nearest_training_image"].value == 0


def test_models_are_judged_alike_each_time_and_otherwise_by_another_seed(config: Path) -> None:
    judge, model = exact(opened(config, concepts=3), nearest=False), tiny_model()
    first, again, other = (
        judge_model(judge, model, Sampling(seed=seed, batch_size=size))
        for seed, size in ((0, 100), (0, 3), (5, 100))
    )
    assert first[KNOWN].verdicts == again[KNOWN].verdicts
    assert first[KNOWN].samples != other[KNOWN].samples
    assert first[KNOWN].verdicts[REAL] == other[KNOWN].verdicts[REAL]


@pytest.mark.usefixtures("_pooled")
def test_evaluate_judges_a_model(
    config: Path, folder: Path, tmp_path: Path, run_script: Script
) -> None:
    arguments = [folder, "--config", config, "--judge", "--candidates", "2", "--resamples", "20"]
    arguments += ["--top-k", "5", "--json", tmp_path / "f.json", "--sheet", tmp_path / "sheet.png"]
    status, printed, error = run_script(evaluate.main, *arguments)
    assert status == 0, error
    figures = json.loads((tmp_path / "f.json").read_text())
    assert {"psnr", "ssim", "lite0_distance", "held_out_image_loss"} <= set(figures)
    judged = figures["judge"]
    assert judged["sampling"] | {"top_k": 5, "candidates": 2, "seed": 0} == judged["sampling"]
    assert (judged["model"], judged["reference"], judged["artist"]) == (str(folder), "ink", "oil")
    assert len(judged["fingerprint"]) == len(judged["tokenizer_fingerprint"]) == 16
    assert {name: group["n"] for name, group in judged["groups"].items()} == {
        KNOWN: 5,
        PAIRS: 2,
        CONCEPTS: 2,
    }
    for group in judged["groups"].values():
        assert group["chance"]["top_1"] == 1 / group["n"]
        assert len(group["concepts"]) == group["n"]
        for kind in (ONE, "best_of_2", RECONSTRUCTIONS, REAL):
            assert len(group[kind]["ranks"]) == group["n"]
            share = group[kind]["top_1"]
            assert share["low"] <= share["value"] <= share["high"]
        assert group[REAL]["top_1"]["value"] == 1
    known = judged["groups"][KNOWN]
    assert {"own_codes", "nearest_training_image"} <= set(known)
    assert known[ONE]["ranks"] != known[REAL]["ranks"]
    assert "best of 2" in printed
    assert "100.0 [100.0, 100.0] / 100.0" in printed
    with Image.open(tmp_path / "sheet.png") as sheet:
        assert sheet.width > 12 * 128


@pytest.mark.usefixtures("_pooled")
def test_evaluate_judges_a_tokenizer_by_its_reconstructions(
    config: Path, folder: Path, tmp_path: Path, run_script: Script
) -> None:
    arguments = [folder / "tokenizer", "--config", config, "--judge", "3"]
    arguments += ["--resamples", "9", "--json", tmp_path / "f.json"]
    status, printed, error = run_script(evaluate.main, *arguments)
    assert status == 0, error
    judged = json.loads((tmp_path / "f.json").read_text())["judge"]
    assert judged["groups"][KNOWN]["n"] == 3
    assert {RECONSTRUCTIONS, REAL} <= set(judged["groups"][KNOWN])
    assert ONE not in judged["groups"][KNOWN]
    assert "sampling" not in judged
    assert "one candidate" not in printed


@pytest.mark.slow
def test_the_judge_that_ships_sees_real_images(
    config: Path, folder: Path, tmp_path: Path, run_script: Script
) -> None:
    pytest.importorskip("efficientnet_lite_pytorch")
    arguments = [folder, "--config", config, "--judge", "--json", tmp_path / "f.json"]
    status, _, error = run_script(evaluate.main, *arguments)
    assert status == 0, error
    figures = json.loads((tmp_path / "f.json").read_text())
    assert figures["judge"]["groups"][KNOWN][REAL]["top_1"]["value"] == 1
    assert figures["judge"]["groups"][KNOWN][ONE]["top_1"]["value"] < 1
    assert figures["lite0_distance"] > 0


def never(*_: object, **__: object) -> None:
    raise AssertionError("something was sampled")


@pytest.mark.usefixtures("_pooled")
@pytest.mark.parametrize(
    ("changes", "named"),
    [
        (["--judge", "1"], "--judge is 1: write a whole number from 2"),
        (["--candidates", "2"], "give --judge as well"),
        (["--judge", "--candidates", "0"], "--candidates is 0: write a whole number from 1"),
        (["--judge", "--judge-artist", "chalk"], "no images by 'chalk'"),
        (
            ["--judge", "--judge-artist", "oil", "--judge-reference", "oil"],
            "--judge-artist and --judge-reference are both 'oil'",
        ),
        (["--judge", "--guidance", "2"], "guidance_scale is 2.0, but this model was trained"),
        (["--judge", "--temperature", "0"], "temperature is 0.0"),
    ],
)
def test_what_cannot_be_judged_is_one_line(
    changes: list[str],
    named: str,
    config: Path,
    folder: Path,
    run_script: Script,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(TextToImage, "batches", never)
    status, _, error = run_script(evaluate.main, folder, "--config", config, *changes)
    assert status == 2
    lines = [line for line in error.splitlines() if line.startswith("error:")]
    assert len(lines) == 1
    assert named in lines[0]


@pytest.mark.usefixtures("_pooled")
def test_data_without_concepts_or_artists_is_one_line(
    config: Path, folder: Path, tmp_path: Path, image_folder: Path, run_script: Script
) -> None:
    def error_of(data: dict[str, str]) -> str:
        config.write_text(json.dumps({"data": data}))
        status, _, error = run_script(evaluate.main, folder, "--config", config, "--judge")
        assert status == 2
        return error.splitlines()[-1]

    data = json.loads(config.read_text())["data"]
    assert "columns of concepts and artists" in error_of({"path": str(image_folder)})
    assert "columns of concepts and artists" in error_of({**data, "artist_column": ""})
    write_rows(tmp_path / "train.parquet", TRAINED, concept=[])
    named = error_of(data)
    assert "the judge needs a column 'concept' in" in named
    assert named.endswith("it has image, caption, artist")
    assert "--judge needs --config" in run_script(evaluate.main, folder, "--judge")[2]


def test_without_the_extra_the_judge_says_so_and_the_distance_is_left_out(
    config: Path, folder: Path, run_script: Script, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(__import__("sys").modules, "efficientnet_lite_pytorch", None)
    status, printed, error = run_script(evaluate.main, folder, "--config", config)
    assert status == 0, error
    assert "lite0_distance: not measured" in printed + error
    assert ".[perceptual]" in printed + error
    assert "\nssim " in printed
    monkeypatch.setattr(TextToImage, "batches", never)
    status, _, error = run_script(evaluate.main, folder, "--config", config, "--judge")
    assert status == 2
    assert ".[perceptual]" in error.splitlines()[-1]


def test_options_left_out_sample_as_the_model_does_by_itself() -> None:
    request = evaluation_of(evaluate.parse_arguments(["folder", "--seed", "4"]))
    own = Sampling(seed=4, batch_size=TOGETHER)
    assert request.sampling() == own
    expected = dataclasses.replace(own, temperature=0.7, top_k=5)
    assert request.sampling(SamplingDefaults(temperature=0.7, top_k=5)) == expected
    given = ["folder", "--temperature", "0.5", "--top-k", "3", "--top-p", "0.9", "--guidance", "2"]
    found = evaluation_of(evaluate.parse_arguments(given)).sampling()
    changed = {"temperature": 0.5, "top_k": 3, "top_p": 0.9, "guidance_scale": 2, "seed": 0}
    assert found == dataclasses.replace(own, **changed)


@pytest.mark.usefixtures("_pooled")
def test_the_best_way_of_sampling_is_chosen_among_a_grid(
    config: Path, folder: Path, tmp_path: Path, run_script: Script
) -> None:
    arguments = [folder, "--config", config, "--judge", "2", "--temperature", "1", "0.1"]
    arguments += ["--top-k", "0", "1", "--record", tmp_path / "r.json", "--out", tmp_path / "r.png"]
    status, _, error = run_script(choose_sampling.main, *arguments)
    assert status == 2
    assert "guidance_scale is 2.0" in error  # before anything is sampled
    status, printed, error = run_script(choose_sampling.main, *arguments, "--guidance", "1")
    assert status == 0, error
    record = json.loads((tmp_path / "r.json").read_text())
    assert [(each["temperature"], each["top_k"]) for each in record["settings"]] == [
        (1, 0),
        (1, 1),
        (0.1, 0),
        (0.1, 1),
    ]
    scores = [each["score"] for each in record["settings"]]
    for each in record["settings"]:
        shares = [each[group]["top_1"]["value"] for group in (KNOWN, PAIRS)]
        assert each["score"] == pytest.approx(sum(shares) / 2)
    best = record["settings"][scores.index(max(scores))]
    assert record["best"] == {axis: best[axis] for axis in choose_sampling.AXES}
    # The likeliest code is the same at any temperature.
    assert record["settings"][1][KNOWN] == record["settings"][3][KNOWN]
    assert "best: " in printed
    with Image.open(tmp_path / "r.png") as image:
        assert image.width > 100


def test_the_grid_is_every_combination() -> None:
    options = Namespace(
        seed=3, temperature=[1.0, 0.5], guidance_scale=[1.0, 2.0], top_p=[1.0, 0.9], top_k=[0]
    )
    every = choose_sampling.settings(options, tiny_model(text_drop=0.1))
    assert len(set(every)) == 8
    assert all(each.seed == 3 for each in every)
    assert Sampling(3 - 2, 3, 0, 0.5, 0, 0.9, 2.0, choose_sampling.TOGETHER) in every


def test_the_perceptual_distance_is_the_mean_over_images() -> None:
    model, network = tiny_model(), Pooled()
    images = [to_array(drawing(concept, "ink")) for concept in "01234"]
    each = []
    for image in images:
        pixels = to_tensor([image])
        rebuilt = model.tokenizer.reconstruct(pixels)
        each.append(perceptual_distance(network, pixels, rebuilt, [0, 2, 4, 10], 96).item())
    found = measure_reconstructions(model.tokenizer, images, network, batch_size=2)
    assert found["lite0_distance"] == pytest.approx(each, rel=1e-5)
    assert len(set(each)) == 5


def slow_ssim(x: np.ndarray, y: np.ndarray) -> float:
    """Wang et al. 2004, window by window, of images [3, H, W]."""
    x, y = (0.299 * each[0] + 0.587 * each[1] + 0.114 * each[2] for each in (x, y))
    height, width = (min(11, side) for side in x.shape)
    window = np.empty((height, width))
    for i in range(height):
        for j in range(width):
            square = (i - (height - 1) / 2) ** 2 + (j - (width - 1) / 2) ** 2
            window[i, j] = np.exp(-square / (2 * 1.5**2))
    window /= window.sum()
    values = []
    for top in range(x.shape[0] - height + 1):
        for left in range(x.shape[1] - width + 1):
            a, b = (each[top : top + height, left : left + width] for each in (x, y))
            mean_a, mean_b = (window * a).sum(), (window * b).sum()
            variance_a = (window * (a - mean_a) ** 2).sum()
            variance_b = (window * (b - mean_b) ** 2).sum()
            covariance = (window * (a - mean_a) * (b - mean_b)).sum()
            values.append(
                (2 * mean_a * mean_b + 0.01**2)
                * (2 * covariance + 0.03**2)
                / (mean_a**2 + mean_b**2 + 0.01**2)
                / (variance_a + variance_b + 0.03**2)
            )
    return float(np.mean(values))


@pytest.mark.parametrize("shape", [(16, 16), (23, 14), (11, 11), (12, 5), (1, 30)])
def test_ssim_is_the_papers_formula(shape: tuple[int, int]) -> None:
    rng = np.random.default_rng(0)
    images = rng.random((4, 3, *shape))
    others = np.stack([images[0], 1 - images[1], images[2] ** 2, rng.random((3, *shape))])
    expected = [slow_ssim(x, y) for x, y in zip(images, others, strict=True)]
    found = ssim(torch.from_numpy(images), torch.from_numpy(others))
    np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-9)
    single = ssim(torch.from_numpy(images).float(), torch.from_numpy(others).float())
    np.testing.assert_allclose(single, expected, atol=1e-4)


def test_ssim_is_1_for_equal_images_symmetric_and_never_beyond_1() -> None:
    images = torch.rand(6, 3, 20, 17)
    assert ssim(images, images).tolist() == [1] * 6
    white = torch.ones(1, 3, 16, 16)
    assert ssim(white, white).item() == 1
    plain = (2 * 0.5 + 0.01**2) / (1.25 + 0.01**2)  # of grey and white only luminance differs
    assert ssim(white, white / 2).item() == pytest.approx(plain, abs=1e-4)
    negative = ssim(images, 1 - images)
    assert (negative < -0.5).all()
    for other in (1 - images, torch.rand(6, 3, 20, 17), (images > 0.5).float()):
        found = ssim(images, other)
        assert ((found >= -1) & (found < 1)).all()
        torch.testing.assert_close(found, ssim(other, images))
