"""sample.py on the shipped models, and its answers to bad input."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import sample
from training.pictures import open_picture

Script = Callable[..., tuple[int, str, str]]
MODELS = Path(__file__).parents[1] / "models"


@pytest.mark.parametrize(
    ("model", "text"), [("emoji", "a red heart"), ("shapes", "a small red circle")]
)
def test_the_shipped_models_draw(model: str, text: str, tmp_path: Path, run_script: Script) -> None:
    arguments = ["--model", MODELS / model, "--text", text, "--candidates", "2", "--seed", "5"]
    status, printed, error = run_script(sample.main, *arguments, "--out", tmp_path)
    assert status == 0, error
    folder = next(tmp_path.iterdir())
    assert str(folder) in printed
    record = json.loads((folder / "samples.json").read_text())
    for candidate in record["candidates"]:
        image = open_picture(folder / candidate["file"])
        assert image.size == (64, 64)
        assert len(np.unique(np.asarray(image))) > 20
    again = tmp_path / "again"
    run_script(sample.main, *arguments, "--candidates", "1", "--out", again)
    name = record["candidates"][0]["file"]
    first, second = (open_picture(f / name) for f in (folder, next(again.iterdir())))
    assert first.tobytes() == second.tobytes()


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["--candidates", "0"], "candidates is 0"),
        (["--temperature", "0"], "temperature is 0"),
        (["--top-p", "1.5"], "top_p is 1.5"),
        (["--top-k", "-1"], "top_k is -1"),
        (["--text", "   "], "is empty"),
        (["--model", "nowhere"], "no checkpoint folder nowhere"),
        (["--memory", "1e-6"], "caches take"),
        (["--guidance", "-1"], "guidance_scale is -1"),
        (["--keep-rows", "2"], "--keep-rows and --redraw-from need --image"),
        (["--image", "docs/samples-emoji.png", "--redraw-from", "0", "0"], "not both 0"),
        (["--image", "docs/samples-emoji.png", "--redraw-from", "2", "8"], "column from 0 to 7"),
        (["--image", "pyproject.toml"], "pyproject.toml"),
        (["--out", "/proc/none"], "/proc/none"),
    ],
)
def test_bad_input_is_one_line_and_writes_nothing(
    arguments: list[str], named: str, tmp_path: Path, run_script: Script
) -> None:
    defaults = ["--model", MODELS / "emoji", "--text", "a", "--out", tmp_path / "out"]
    status, _, error = run_script(sample.main, *defaults, *arguments)
    assert status == 2
    lines = [line for line in error.splitlines() if line.startswith("error:")]
    assert len(lines) == 1
    assert named in lines[0]
    assert not list(tmp_path.rglob("*.png"))


def test_a_part_of_a_picture_is_kept(tmp_path: Path, run_script: Script) -> None:
    arguments = ["--model", MODELS / "emoji", "--text", "a red heart", "--candidates", "1"]
    run_script(sample.main, *arguments, "--out", tmp_path / "first")
    folder = tmp_path / "first" / "a-red-heart"
    picture = folder / "0-000.png"
    arguments += ["--image", picture, "--redraw-from", "3", "4", "--seed", "9"]
    status, _, error = run_script(sample.main, *arguments, "--out", tmp_path / "second")
    assert status == 0, error
    record = json.loads((tmp_path / "second/a-red-heart/samples.json").read_text())
    assert record["kept_codes"] == 64 - 5 * 4
    codes = np.array(record["candidates"][0]["codes"]).reshape(8, 8)
    first = json.loads((folder / "samples.json").read_text())
    kept = np.array(first["candidates"][0]["codes"]).reshape(8, 8)
    assert (codes[:3] == kept[:3]).all()
    assert (codes[:, :4] == kept[:, :4]).all()


def test_a_dry_run_says_what_memory_drawing_takes(tmp_path: Path, run_script: Script) -> None:
    arguments = ["--model", MODELS / "shapes", "--text", "a red star", "--candidates", "100"]
    out = tmp_path / "out"
    status, printed, _ = run_script(sample.main, *arguments, "--dry-run", "--out", out)
    assert status == 0
    assert "100 candidates in 2 batches of up to 50" in printed
    assert not out.exists()


def test_a_long_caption_is_cut_with_a_warning_that_says_where(
    tmp_path: Path, run_script: Script
) -> None:
    words = " ".join(["red heart"] * 40)
    arguments = ["--model", MODELS / "emoji", "--text", words, "--candidates", "1"]
    status, _, error = run_script(sample.main, *arguments, "--out", tmp_path)
    assert status == 0
    assert "warning: caption of" in error
    assert 'red heart red heart"' in error or 'heart red heart red"' in error


def test_words_never_seen_still_draw(tmp_path: Path, run_script: Script) -> None:
    arguments = ["--model", MODELS / "emoji", "--text", "zażółć 🐌 qwxyz", "--candidates", "1"]
    assert run_script(sample.main, *arguments, "--out", tmp_path)[0] == 0
