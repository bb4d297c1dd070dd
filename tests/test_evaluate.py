"""evaluate.py on the shipped models and a tiny one, and its scores by a tiny dual encoder."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from rankers import untrained

import evaluate
from dual_encoder.checkpoint import save_dual_encoder

ROOT = Path(__file__).parents[1]
Script = Callable[..., tuple[int, str, str]]


def test_the_checker_reads_what_the_shapes_model_samples(
    tmp_path: Path, run_script: Script
) -> None:
    """Few captions, so loose bounds; deaf to captions it would have one colour in eight right."""
    arguments = [ROOT / "models/shapes", "--checker", "16", "--json", tmp_path / "figures.json"]
    status, printed, error = run_script(evaluate.main, *arguments)
    assert status == 0, error
    figures = json.loads((tmp_path / "figures.json").read_text())
    assert figures["reconstruction_exact"] > 0.95
    assert figures["sample_colour"] > 0.8
    assert "sample_exact" in printed


def test_the_device_is_chosen_and_named(run_script: Script) -> None:
    arguments = [ROOT / "models/shapes/tokenizer", "--checker", "2", "--device", "cpu"]
    status, printed, error = run_script(evaluate.main, *arguments)
    assert status == 0, error
    assert "device: cpu" in error.splitlines()
    assert "reconstruction_exact" in printed
    status, _, error = run_script(evaluate.main, *arguments[:-1], "nonsense")
    assert status == 2
    assert "'nonsense' is none of auto, cpu, cuda, mps" in error


@pytest.mark.slow
def test_the_shapes_model_is_as_good_as_its_card_says(tmp_path: Path, run_script: Script) -> None:
    arguments = [ROOT / "models/shapes", "--checker", "200", "--json", tmp_path / "figures.json"]
    assert run_script(evaluate.main, *arguments)[0] == 0
    figures = json.loads((tmp_path / "figures.json").read_text())
    assert figures["reconstruction_exact"] >= 0.99
    assert figures["sample_exact"] >= 0.65
    assert figures["sample_colour"] >= 0.9


def test_nothing_to_measure_is_one_line(run_script: Script) -> None:
    status, _, error = run_script(evaluate.main, ROOT / "models/shapes")
    assert status == 2
    assert "--checker" in error


def test_held_out_losses_of_a_config(
    toy: Path, tmp_path: Path, run_script: Script, image_folder: Path
) -> None:
    config = tmp_path / "data.yaml"
    config.write_text(f"data: {{path: {image_folder}, held_out_share: 0.5}}")
    arguments = [toy, "--config", config, "--json", tmp_path / "figures.json"]
    arguments += ["--pictures", "4"]  # the older name of --images
    status, _, error = run_script(evaluate.main, *arguments)
    assert status == 0, error
    figures = json.loads((tmp_path / "figures.json").read_text())
    assert {"psnr", "perplexity", "held_out_image_loss", "held_out_text_loss"} <= set(figures)


@pytest.fixture
def scorable(toy: Path, tmp_path: Path, image_folder: Path) -> list[object]:
    """The arguments for scores of a tiny model's images by a tiny dual encoder."""
    save_dual_encoder(tmp_path / "ranker", untrained())
    config = tmp_path / "data.yaml"
    config.write_text(f"data: {{path: {image_folder}, held_out_path: {image_folder}}}")
    return [toy, "--config", config, "--ranker", tmp_path / "ranker"]


def test_scores_have_intervals_and_a_ceiling(
    scorable: list[object], tmp_path: Path, run_script: Script
) -> None:
    arguments = [*scorable, "--scores", "6", "--resamples", "20", "--json", tmp_path / "f.json"]
    status, printed, error = run_script(evaluate.main, *arguments)
    assert status == 0, error
    figures = json.loads((tmp_path / "f.json").read_text())
    assert "psnr" in figures
    scores = figures["scores"]
    assert {"clip_score", "cosine", "fd_dual_encoder"} <= set(scores)
    assert "picture_to_text_recall_at_5" in scores
    for score in scores.values():
        for kind in ("drawn", "real"):
            assert score[kind]["low"] <= score[kind]["value"] <= score[kind]["high"]
    assert scores["cosine"]["drawn"] != scores["cosine"]["real"]
    line = next(line for line in printed.splitlines() if line.startswith("fd_dual_encoder"))
    assert f"{scores['fd_dual_encoder']['drawn']['value']:.4f} [" in line
    assert "real images" in line
    assert "scores of 6 captions" in printed
    assert "between 6 and 6 images" in printed


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        (["--scores", "-1"], "--scores is -1: write a whole number from 0"),
        (["--scores", "4", "--resamples", "0"], "--resamples is 0: write a whole number from 1"),
        (["--scores", "1"], "scores of 1 captions"),
        (["--scores", "4", "--ranker", "nowhere"], "no dual encoder nowhere"),
        (["--scores", "4", "--inception", "nowhere.pth"], "nowhere.pth does not exist"),
        ([], "give --scores N as well"),
    ],
)
def test_scores_that_cannot_be_had_are_one_line(
    changes: list[str], named: str, scorable: list[object], run_script: Script
) -> None:
    status, _, error = run_script(evaluate.main, *scorable, "--images", "2", *changes)
    assert status == 2
    lines = [line for line in error.splitlines() if line.startswith("error:")]
    assert len(lines) == 1
    assert named in lines[0]


def test_scores_need_captions_and_a_text_to_image_model(run_script: Script) -> None:
    tokenizer = ROOT / "models/shapes/tokenizer"
    status, _, error = run_script(evaluate.main, tokenizer, "--checker", "2", "--scores", "4")
    assert status == 2
    assert "--scores needs --config" in error
