"""Curves of training runs: what is read of their logs, what is drawn, what a user gets wrong."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dalle_base.common.images import open_image
from dalle_base.training import curves

Script = Callable[..., tuple[int, str, str]]


def write_log(folder: Path, lines: list[Any]) -> Path:
    folder.mkdir(parents=True)
    texts = [line if isinstance(line, str) else json.dumps(line) for line in lines]
    (folder / "metrics.jsonl").write_text("\n".join(texts))
    return folder


def test_what_a_log_has_is_read_whatever_else_is_in_it(tmp_path: Path) -> None:
    lines = [
        {"step": 2, "loss": 3.0, "lr": 0.1},
        {"step": 1, "loss": 4.0, "skipped": True, "note": "x"},
        {"step": 3, "loss": float("nan")},
        {"step": 3, "psnr": float("inf")},
        *("", "[1, 2]", "3", '{"loss": 3}', '{"step": null}', '{"step": 4, "loss"'),
    ]
    found = curves.read_curves(write_log(tmp_path / "run", lines))
    assert found == {"loss": [(1, 4.0), (2, 3.0)], "lr": [(2, 0.1)]}


def test_figures_are_drawn_in_an_order_and_no_more_than_fit() -> None:
    line = [(1, 1.0)]
    one = dict.fromkeys(["psnr", "lr", "loss"], line)
    many = dict.fromkeys([f"figure_{i}" for i in range(40)], line)
    assert curves.choose_figures([one]) == ["loss", "lr", "psnr"]
    assert curves.choose_figures([one, many])[:4] == ["loss", "lr", "psnr", "figure_0"]
    assert len(curves.choose_figures([one, many])) == curves.MOST
    assert curves.choose_figures([one, many], ["figure_39"]) == ["figure_39"]


def test_runs_of_one_name_are_told_apart(tmp_path: Path) -> None:
    assert curves.labels_of([tmp_path / "a/run", tmp_path / "other"]) == ["run", "other"]
    same = [tmp_path / "a/run", tmp_path / "b/run"]
    assert curves.labels_of(same) == [str(path) for path in same]


def coloured(path: Path) -> set[str]:
    """Which of the first two runs' colours a drawing has."""
    image = np.asarray(open_image(path)).astype(int)
    colours = {"first": (31, 119, 180), "second": (255, 127, 14)}
    return {name for name, rgb in colours.items() if (abs(image - rgb).max(-1) < 30).any()}


def test_several_runs_are_drawn_in_one_file(tmp_path: Path, run_script: Script) -> None:
    first = write_log(tmp_path / "$a_1$", [{"step": i, "loss": 5 - i} for i in range(4)])
    second = write_log(tmp_path / "b", [{"step": 1, "loss": 2.0, "psnr": 20.0}])
    status, printed, error = run_script(curves.main, first)
    assert status == 0, error
    assert printed == f"wrote {first / 'curves.png'}: loss\n"
    assert coloured(first / "curves.png") == {"first"}
    out = tmp_path / "new/both.png"
    status, printed, error = run_script(curves.main, first, second, "--out", out)
    assert status == 0, error
    assert "loss, psnr" in printed
    assert coloured(out) == {"first", "second"}
    assert open_image(out).width > open_image(first / "curves.png").width


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["nowhere"], "nowhere has no metrics.jsonl"),
        (["empty"], "no figures yet"),
        (["run", "--figures", "psnr"], "no run has 'psnr'; there are loss"),
        (["run", "--out", "run"], "run"),
    ],
)
def test_mistakes_are_one_line(
    arguments: list[str],
    named: str,
    tmp_path: Path,
    run_script: Script,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    write_log(tmp_path / "run", [{"step": 1, "loss": 1.0}])
    write_log(tmp_path / "empty", [])
    status, _, error = run_script(curves.main, *arguments)
    assert status == 2
    assert error.startswith("error: ")
    assert named in error
    assert error.count("\n") == 1
