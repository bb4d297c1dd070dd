"""Fixtures that several test files share."""

import csv
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

ROOT = Path(__file__).parents[1]
# Scripts are imported as modules wherever pytest was started from.
sys.path.insert(0, str(ROOT))


@pytest.fixture(autouse=True)
def _few_threads() -> None:
    torch.set_num_threads(min(2, torch.get_num_threads()))


@pytest.fixture
def picture_folder(tmp_path: Path) -> Path:
    """Twelve small coloured pictures with captions in metadata.csv."""
    folder = tmp_path / "pictures"
    folder.mkdir()
    rng = np.random.default_rng(0)
    names = ["red", "green", "blue"]
    with (folder / "metadata.csv").open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["file_name", "caption"])
        for i in range(12):
            array = rng.integers(0, 60, (20, 24, 3), dtype=np.uint8)
            array[..., i % 3] += 180
            Image.fromarray(array).save(folder / f"{i:02d}.png")
            table.writerow([f"{i:02d}.png", f"a {names[i % 3]} picture, number {i}"])
    return folder


@pytest.fixture
def run_script(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., tuple[int, str, str]]:
    """Call a script's `main` with arguments; return exit status, standard output and error."""

    def run(main: Callable[[], int], *arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["script", *map(str, arguments)])
        capsys.readouterr()
        try:
            status = main()
        except SystemExit as stop:
            status = stop.code if isinstance(stop.code, int) else int(bool(stop.code))
        captured = capsys.readouterr()
        return status, captured.out, captured.err

    return run
