"""Fixtures that several test files share."""

import csv
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

# Before torch is imported: workers with several threads each slow one another down many times.
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import pytest
import torch
from builders import tiny_model
from PIL import Image
from rankers import TINY, untrained

import train_clip
from dalle.checkpoint import save_text_to_image
from dalle_base.training import tracking
from dual_encoder.checkpoint import save_dual_encoder
from dvae.kinds import SavedTokenizer

ROOT = Path(__file__).parents[1]


@pytest.fixture(autouse=True)
def _few_threads() -> None:
    torch.set_num_threads(min(2, torch.get_num_threads()))


@pytest.fixture(autouse=True)
def _no_tracker(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is installed that a run would write to of itself."""
    monkeypatch.setattr(tracking, "installed", lambda _: False)


@pytest.fixture
def image_folder(tmp_path: Path) -> Path:
    """Twelve small coloured images with captions in metadata.csv."""
    folder = tmp_path / "images"
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


@pytest.fixture(scope="session")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a `tiny_model` with a reranker, for tests that only read it."""
    folder, model = tmp_path_factory.mktemp("toy") / "model", tiny_model(text_drop=0.1)
    save_text_to_image(folder, model, SavedTokenizer(model=model.tokenizer.config))
    save_dual_encoder(folder / "reranker", untrained())
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


@pytest.fixture
def run_in_two_processes() -> Callable[..., None]:
    """Call a script of the root folder in two processes, as on two devices: it ends well."""

    def run(script: str, *arguments: str) -> None:
        launch = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", script]
        done = subprocess.run(
            [sys.executable, *launch, *arguments],
            cwd=ROOT,
            env=os.environ | {"ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1"},
            timeout=300,
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr
        for complaint in ("Warning", "terminate called", "destroy_process_group", "Traceback"):
            assert complaint not in done.stderr, done.stderr

    return run


@pytest.fixture
def train_ranker(
    image_folder: Path, tmp_path: Path, run_script: Callable[..., tuple[int, str, str]]
) -> Callable[..., tuple[int, str, str]]:
    """Train a tiny dual encoder in a folder of a name, with overrides."""

    def run(name: str, *overrides: str) -> tuple[int, str, str]:
        places = (f"data.path={image_folder}", f"run.out={tmp_path / name}")
        return run_script(train_clip.main, *TINY, *places, *overrides)

    return run
