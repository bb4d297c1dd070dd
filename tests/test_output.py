"""Folders of runs that never mix, captions of a file, and masks."""

import json
import shlex
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import sample
from dalle import together
from dalle.checkpoint import load_text_to_image
from dalle.prompt import read_mask
from dalle_base.common.errors import UserError
from dalle_base.common.leftovers import claimed
from dalle_base.common.output import RUN, identity, open_output
from dalle_base.common.several import STOPPED, Sampled, sample_each

Script = Callable[..., tuple[int, str, str]]


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def run(out: Path, name: str, files: list[str], finished: bool = True, **asked: Any) -> Path:
    """A run that writes files with its own words in them."""
    with open_output(out, name, asked) as output:
        for file in files:
            (output.folder / file).write_text(repr(asked))
        output.finish(files, finished)
        return output.folder


def test_another_run_has_another_folder_and_the_same_one_its_own(tmp_path: Path) -> None:
    first = run(tmp_path, "A red heart!", ["0.png"], seed=0)
    second = run(tmp_path, "a red heart", ["0.png"], seed=1)
    assert [first.name, second.name] == ["a-red-heart", "a-red-heart-2"]
    assert run(tmp_path, "a red heart", ["0.png"], seed=0) == first
    assert run(tmp_path, "a red heart", ["0.png"], seed=1) == second
    assert (first / "0.png").read_text() == "{'seed': 0}"
    assert names(tmp_path) == ["a-red-heart", "a-red-heart-2"]


def test_what_a_run_made_earlier_and_not_now_is_removed_and_nothing_else(tmp_path: Path) -> None:
    folder = run(tmp_path, "a", ["0.png", "5.png"], finished=False, seed=0)
    (folder / "mine.txt").write_text("a note")
    assert run(tmp_path, "a", ["0.png", "2.png"], seed=0) == folder
    assert names(folder) == ["0.png", "2.png", "mine.txt", RUN]


def test_a_finished_run_whose_image_was_removed_is_not_finished(tmp_path: Path) -> None:
    folder = run(tmp_path, "a", ["0.png", "1.png"], seed=0)
    with open_output(tmp_path, "a", {"seed": 0}) as output:
        assert output.finished
    (folder / "1.png").unlink()
    with open_output(tmp_path, "a", {"seed": 0}) as output:
        assert output.folder == folder
        assert not output.finished


def test_nothing_outside_a_runs_folder_is_removed(tmp_path: Path) -> None:
    folder = run(tmp_path / "out", "a", ["0.png"], seed=0)
    (tmp_path / "mine.txt").write_text("a note")
    record = json.loads((folder / RUN).read_text())
    record["files"] += ["../../mine.txt", str(tmp_path / "mine.txt")]
    (folder / RUN).write_text(json.dumps(record))
    assert run(tmp_path / "out", "a", ["0.png"], seed=0) == folder
    assert (tmp_path / "mine.txt").exists()


@pytest.mark.parametrize("record", ["", "[]", '{"run": 3}', '{"files": []}'])
def test_a_folder_of_something_else_is_left_alone(record: str, tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / (RUN if record else "photo.png")).write_text(record)
    assert run(tmp_path, "a", ["0.png"], seed=0).name == "a-2"
    assert len(names(tmp_path / "a")) == 1


def test_what_came_to_nothing_leaves_nothing(tmp_path: Path) -> None:
    out = tmp_path / "out"
    with open_output(out, "a", {"seed": 0}) as output:
        assert output.folder.exists()
    assert not out.exists()
    with pytest.raises(KeyError), open_output(out, "a", {"seed": 0}):
        raise KeyError
    assert not out.exists()
    out.mkdir()
    with open_output(out, "a", {"seed": 0}):
        pass
    assert names(out) == []


def test_a_folder_that_a_process_writes_to_is_no_one_elses(tmp_path: Path) -> None:
    with (
        open_output(tmp_path, "a", {"seed": 0}) as one,
        open_output(tmp_path, "a", {"seed": 0}) as o,
    ):
        assert one.folder != o.folder
    (tmp_path / "b").mkdir()
    with claimed(tmp_path / "b") as free:
        assert free
        assert run(tmp_path, "b", [], seed=0).name == "b-2"


@dataclass(frozen=True)
class Asked:
    text: str
    out: Path
    seed: int = 0

    def identity(self) -> dict[str, Any]:
        return identity(self, ["out"])


def painted(request: Asked, folder: Path) -> Sampled:
    """Stands for sampling: an image of one colour."""
    if request.text == "bad":
        raise UserError("cannot be sampled")
    Image.new("RGB", (8, 8), (request.seed, 0, 0)).save(folder / "best.png")
    return Sampled(["best.png"], finished=request.text != "stop")


def test_several_captions_go_on_where_they_were_stopped(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    requests = [Asked(text, tmp_path) for text in ("a", "A!", "b")]
    assert sample_each([*requests[:2], Asked("stop", tmp_path)], painted) == STOPPED
    assert names(tmp_path) == ["a", "a-2", "stop"]
    capsys.readouterr()
    assert sample_each(requests, painted) == 0
    printed = capsys.readouterr().out
    assert printed.count("finished earlier") == 2
    assert f"3/3 b\nwrote the overview {tmp_path}/overview/overview.png" in printed
    places = json.loads((tmp_path / "overview/overview.json").read_text())
    assert [place["folder"] for place in places] == ["a", "a-2", "b"]
    other = [Asked("a", tmp_path, seed=1), Asked("b", tmp_path)]
    assert sample_each(other, painted) == 0
    assert {"a-3", "overview-2"} < set(names(tmp_path))


def test_a_caption_that_cannot_be_sampled_keeps_none_from_the_others(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    requests = [Asked(text, tmp_path) for text in ("bad", "b")]
    with pytest.raises(UserError, match="1 of 2 captions could not be sampled"):
        sample_each(requests, painted)
    assert "error: bad: cannot be sampled" in capsys.readouterr().err
    assert names(tmp_path) == ["b", "overview"]


def test_a_run_is_told_by_the_content_of_its_files(tmp_path: Path) -> None:
    @dataclass
    class Named:
        image: Path
        model: Path
        seed: int = 0

    for name, content in (("x", b"one"), ("y", b"one"), ("z", b"two")):
        (tmp_path / f"{name}.png").write_bytes(content)
        (tmp_path / name).mkdir()
        (tmp_path / name / "model.safetensors").write_bytes(content)
    x, y, z = (identity(Named(tmp_path / f"{n}.png", tmp_path / n), []) for n in "xyz")
    assert x == y
    assert x["image"] != z["image"]
    assert x["model"] != z["model"]


def test_captions_of_a_file_have_a_folder_each(
    toy: Path, tmp_path: Path, run_script: Script
) -> None:
    file, out = tmp_path / "captions.txt", tmp_path / "out"
    file.write_bytes("\ufeffa red star\r\n\r\n  ein grüner Kreis\na red star\n".encode())
    words = ["--model", toy, "--text-file", file, "--candidates", "2", "--out", out]
    status, printed, error = run_script(sample.main, *words, "--text", "first")
    assert status == 0, error
    assert names(out) == ["a-red-star", "ein-grüner-kreis", "first", "overview"]
    before = {path: path.read_bytes() for path in out.rglob("*.png")}
    status, printed, error = run_script(sample.main, *words, "--text", "first")
    assert status == 0, error
    assert printed.count("finished earlier") == 3
    assert before == {path: path.read_bytes() for path in out.rglob("*.png")}
    status, printed, error = run_script(sample.main, *words, "--seed", "1")
    assert status == 0, error
    assert {"a-red-star-2", "overview-2"} < set(names(out))


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"red\n\xff\xfe\n", "line 2 is not UTF-8"),
        (b" \n\n", "has no line with text"),
        (None, "cannot be read: No such file"),
    ],
)
def test_files_without_captions_are_named(
    content: bytes | None, says: str, tmp_path: Path, run_script: Script
) -> None:
    file = tmp_path / "captions.txt"
    if content is not None:
        file.write_bytes(content)
    status, _, error = run_script(sample.main, "--text-file", file, "--out", tmp_path / "out")
    assert status == 2
    assert len(error.splitlines()) == 1
    assert says in error
    assert "captions.txt" in error


def test_no_caption_at_all_is_named(run_script: Script) -> None:
    status, _, error = run_script(sample.main, "--candidates", "2")
    assert (status, error) == (
        2,
        "error: there is no caption: write --text CAPTION, or --text-file FILE\n",
    )


# masks --------------------------------------------------------------------------------------------


def saved(path: Path, marked: np.ndarray, mode: str = "L") -> Path:
    """A mask of pixels; in RGBA what is marked is clear."""
    pixels = np.where(marked, 255, 0).astype(np.uint8)
    if mode == "RGBA":
        pixels = np.stack([0 * pixels] * 3 + [255 - pixels], axis=-1)
    Image.fromarray(pixels, mode).save(path)
    return path


@pytest.mark.parametrize("mode", ["L", "RGBA"])
@pytest.mark.parametrize("shape", [(12, 12), (12, 18), (36, 24)])
def test_codes_under_a_mask_are_those_of_which_it_marks_a_pixel(
    mode: str, shape: tuple[int, int], tmp_path: Path
) -> None:
    height, width = shape
    marked = np.zeros(shape, dtype=bool)
    side = min(shape)
    top, left = (height - side) // 2, (width - side) // 2
    # One pixel of cell (1, 2) of 4 by 3, and all of the last row of cells.
    marked[top + side // 4 + 1, left + 2 * side // 3 + 1] = True
    marked[top + side - side // 8 :] = True
    mask = saved(tmp_path / "mask.png", marked, mode)
    found = read_mask(mask, (width, height), rows=4, columns=3)
    wanted = torch.zeros(4, 3, dtype=torch.bool)
    wanted[1, 2], wanted[3] = True, True
    assert torch.equal(found, wanted)


def test_what_a_mask_marks_is_drawn_anew_and_the_rest_kept(
    toy: Path, tmp_path: Path, run_script: Script
) -> None:
    model = load_text_to_image(toy)
    words = ["--model", toy, "--text", "a red star", "--candidates", "2", "--no-rerank"]
    assert run_script(sample.main, *words, "--out", tmp_path / "one")[0] == 0
    image = tmp_path / "one/a-red-star/0-000.png"
    codes = json.loads((image.parent / "samples.json").read_text())["candidates"][0]["codes"]
    side, rows = model.tokenizer.image_size, model.tokenizer.rows
    cell = side // rows
    marked = np.zeros((side, side), dtype=bool)
    marked[cell : 2 * cell, 0:cell] = marked[2 * cell : 3 * cell, 2 * cell :] = True
    mask = saved(tmp_path / "mask.png", marked)
    status, _, error = run_script(
        sample.main,
        *words,
        "--seed",
        "3",
        "--image",
        image,
        "--mask",
        mask,
        "--out",
        tmp_path / "two",
    )
    assert status == 0, error
    record = json.loads((tmp_path / "two/a-red-star/samples.json").read_text())
    kept = ~read_mask(mask, (side, side), rows, rows).flatten()
    assert record["kept_codes"] == int(kept.sum()) == rows**2 - (1 + rows - 2)
    for candidate in record["candidates"]:
        assert torch.equal(torch.tensor(candidate["codes"])[kept], torch.tensor(codes)[kept])
    # The command of a candidate makes it again.
    own = shlex.split(record["candidates"][1]["command"])[2:]
    assert run_script(sample.main, *own, "--no-rerank", "--out", tmp_path / "three")[0] == 0
    again = json.loads((tmp_path / "three/a-red-star/samples.json").read_text())
    assert again["candidates"][0]["codes"] == record["candidates"][1]["codes"]


@pytest.mark.parametrize(
    ("size", "colour", "says"),
    [
        ((8, 9), 255, "mask.png has 8x9 pixels and --image 8x8: make them alike"),
        ((8, 8), 255, "marks everything: leave --image out"),
        ((8, 8), 0, "marks nothing: make some of it white"),
    ],
)
def test_masks_that_do_not_fit_are_named(
    size: tuple[int, int], colour: int, says: str, tmp_path: Path
) -> None:
    Image.new("L", size, colour).save(tmp_path / "mask.png")
    with pytest.raises(UserError, match=says):
        read_mask(tmp_path / "mask.png", (8, 8), 4, 4)


def test_a_mask_goes_with_an_image_and_no_other_part(run_script: Script) -> None:
    for words, says in (
        (["--mask", "m.png"], "need --image"),
        (["--image", "i.png", "--mask", "m.png", "--keep-rows", "2"], "exclude one another"),
    ):
        status, _, error = run_script(sample.main, "--text", "a", *words)
        assert status == 2
        assert says in error


# several processes --------------------------------------------------------------------------------


@pytest.mark.parametrize("processes", [1, 2, 3, 5])
@pytest.mark.parametrize("candidates", [1, 2, 7])
def test_shares_stand_side_by_side_and_are_all(
    processes: int, candidates: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(together, "count", lambda: processes)
    found: list[int] = []
    for rank in range(processes):
        monkeypatch.setattr(together, "rank", lambda rank=rank: rank)
        first, own = together.share(4, candidates)
        assert own in (candidates // processes, -(-candidates // processes))
        found += range(first, first + own)
    assert found == list(range(4, 4 + candidates))


@pytest.mark.slow
def test_processes_share_candidates_out_and_write_what_one_would(
    toy: Path, tmp_path: Path, run_script: Script, run_in_two_processes: Callable[..., None]
) -> None:
    words = ["--model", str(toy), "--text", "a red star", "--text", "blue", "--candidates", "3"]
    words += ["--seed", "2", "--top", "2"]
    run_in_two_processes("sample.py", *words, "--out", str(tmp_path / "two"))
    assert run_script(sample.main, *words, "--out", tmp_path / "one")[0] == 0
    for name in ("a-red-star", "blue"):
        one, two = (
            json.loads((tmp_path / out / name / "samples.json").read_text())
            for out in ("one", "two")
        )
        for first, second in zip(one.pop("candidates"), two.pop("candidates"), strict=True):
            assert first.pop("log_likelihood") == pytest.approx(second.pop("log_likelihood"))
            assert first.pop("score") == pytest.approx(second.pop("score"), abs=1e-3)
            assert first == second
        assert one == two
        assert names(tmp_path / "one" / name) == names(tmp_path / "two" / name)
    # A single candidate leaves a process without any.
    run_in_two_processes(
        "sample.py", *words[:4], "--candidates", "1", "--out", str(tmp_path / "three")
    )
    assert len(list(tmp_path.glob("three/*/0-*.png"))) == 1
