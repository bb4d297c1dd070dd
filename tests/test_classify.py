"""classify.py: its table, JSON and sheet, and its answers to bad input."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image
from rankers import colour_ranker, plain

import classify
from dalle_base.common import report, sheets
from dual_encoder.checkpoint import save_dual_encoder

Script = Callable[..., tuple[int, str, str]]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("ranker") / "model"
    save_dual_encoder(folder, colour_ranker())
    return folder


@pytest.fixture
def coloured(tmp_path: Path) -> Path:
    folder = tmp_path / "coloured"
    (folder / "deeper").mkdir(parents=True)
    plain("red").save(folder / "a.png")
    plain("blue").save(folder / "deeper" / "b.png")
    (folder / "broken.png").write_bytes(b"no image")
    return folder


def test_a_table_a_json_and_a_sheet(
    model: Path, coloured: Path, tmp_path: Path, run_script: Script
) -> None:
    labels = tmp_path / "labels.txt"
    labels.write_text("green\n\nblue\n")
    arguments = [coloured, coloured / "a.png", "--labels", "red", "--labels-file", labels]
    arguments += ["--template", "a {} thing", "a picture of {}", "--model", model, "--top", "2"]
    arguments += ["--json", tmp_path / "new" / "found.json", "--out", tmp_path / "out"]
    status, printed, error = run_script(classify.main, *arguments)
    assert status == 0, error
    first, second = [line.split() for line in printed.splitlines()[:2]]
    assert (first[0], first[2]) == (str(coloured / "a.png"), "red")
    assert (second[0], second[2]) == (str(coloured / "deeper" / "b.png"), "blue")
    assert len(first) == 5
    assert f"skipped an unreadable image: {coloured / 'broken.png'}" in error
    assert "skipped 1 of 3 images" in error
    record = json.loads((tmp_path / "new" / "found.json").read_text())
    found = record["results"][1]["probabilities"]
    assert list(found) == ["red", "green", "blue"]
    assert found["blue"] > 0.8
    assert sum(found.values()) == pytest.approx(1)
    with Image.open(tmp_path / "out" / "sheet.png") as sheet:
        assert sheet.width > 2 * sheets.THUMBNAIL


def test_many_images_go_on_several_sheets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sheets, "PER_SHEET", 2)
    images = [sheets.thumbnail(plain("red"))] * 3
    paths = sheets.write_sheets(tmp_path, images, ["x" * 99, "b", "c"], "title")
    assert [path.name for path in paths] == ["sheet-1.png", "sheet-2.png"]
    assert all(path.exists() for path in paths)


def test_names_that_cannot_be_printed_are_shown_nevertheless() -> None:
    assert report.shown(Path("a\udcff\n.png")) == "a??.png"


def test_the_device_is_chosen_and_named(model: Path, coloured: Path, run_script: Script) -> None:
    arguments = [coloured / "a.png", "--labels", "red", "blue", "--model", model, "--device"]
    status, printed, error = run_script(classify.main, *arguments, "cpu")
    assert status == 0, error
    assert "device: cpu" in error.splitlines()
    assert "red" in printed
    status, _, error = run_script(classify.main, *arguments, "nonsense")
    assert status == 2
    assert "'nonsense' is none of auto, cpu, cuda, mps" in error


def test_a_long_label_is_cut_with_a_warning(model: Path, coloured: Path, run_script) -> None:
    arguments = [coloured / "a.png", "--labels", "red", "red thing " * 20, "--model", model]
    status, _, error = run_script(classify.main, *arguments)
    assert status == 0
    assert "warning: caption of" in error


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ([], "no labels"),
        (["--labels", "red", "red"], "'red' is given twice"),
        (["--labels", "red", ""], "label 2 is empty"),
        (["--labels", "red"], "two or more"),
        (["--labels-file", "nowhere.txt"], "--labels-file nowhere.txt does not exist"),
        (["--labels", "a", "b", "--template", "an image"], "has no place for the label"),
        (["--labels", "a", "b", "--top", "0"], "--top is 0"),
        (["--labels", "a", "b", "--model", "nowhere"], "no checkpoint folder nowhere"),
        (["--labels", "a", "b", "--out", "/proc/none"], "/proc/none"),
        (["--labels", "a", "b", "--json", "/proc/none/x.json"], "/proc/none"),
    ],
)
def test_bad_input_is_one_line(
    arguments: list[str], named: str, model: Path, coloured: Path, run_script: Script
) -> None:
    status, _, error = run_script(classify.main, coloured, "--model", model, *arguments)
    assert status == 2
    lines = [line for line in error.splitlines() if line.startswith("error:")]
    assert len(lines) == 1
    assert named in lines[0]


@pytest.mark.parametrize(
    ("place", "named"),
    [
        ("broken.png", "not a readable image"),
        ("missing.png", "no image or folder"),
        ("empty", "no images under"),
        ("bad", "none of the 1 images can be read"),
    ],
)
def test_images_that_are_none(
    place: str, named: str, model: Path, coloured: Path, run_script: Script
) -> None:
    (coloured / "empty").mkdir()
    (coloured / "bad").mkdir()
    (coloured / "bad" / "x.png").write_bytes(b"")
    arguments = [coloured / place, "--labels", "a", "b", "--model", model]
    status, _, error = run_script(classify.main, *arguments)
    assert status == 2
    assert named in error
