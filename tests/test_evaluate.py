"""evaluate.py on the shipped models."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

import evaluate

ROOT = Path(__file__).parents[1]
Script = Callable[..., tuple[int, str, str]]


def test_the_checker_reads_what_the_shapes_model_draws(tmp_path: Path, run_script: Script) -> None:
    """Few captions, so loose bounds; deaf to captions it would have one colour in eight right."""
    arguments = [ROOT / "models/shapes", "--checker", "24", "--json", tmp_path / "figures.json"]
    status, printed, error = run_script(evaluate.main, *arguments)
    assert status == 0, error
    figures = json.loads((tmp_path / "figures.json").read_text())
    assert figures["reconstruction_exact"] > 0.95
    assert figures["sample_colour"] > 0.8
    assert "sample_exact" in printed


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
    tmp_path: Path, run_script: Script, picture_folder: Path
) -> None:
    config = tmp_path / "data.yaml"
    config.write_text(f"data: {{path: {picture_folder}, held_out_share: 0.5}}")
    arguments = [ROOT / "models/shapes", "--config", config, "--json", tmp_path / "figures.json"]
    status, _, error = run_script(evaluate.main, *arguments)
    assert status == 0, error
    figures = json.loads((tmp_path / "figures.json").read_text())
    assert {"psnr", "perplexity", "held_out_image_loss", "held_out_text_loss"} <= set(figures)
