"""A full disk: said as that, in one line, wherever it shows; and the same command then goes on."""

import errno
import io
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from rankers import log_lines
from safetensors.torch import load_file
from tqdm import tqdm

import train_dvae
from dalle_base.common.errors import UserError, command, is_full
from dalle_base.common.progress import Forgiving

ROOT = Path(__file__).parents[1]
FULL = Path("/dev/full")
WORDS = "the disk is full; free some space and run the same command again"
Script = Callable[..., tuple[int, str, str]]


def arrow() -> None:
    """As pyarrow says it: without the system's number."""
    raise OSError("[Errno 28] Error writing bytes to file. Detail: No space left on device")


def torch_save() -> None:
    raise RuntimeError("PytorchStreamWriter failed writing file data: No space left on device")


def quota() -> None:
    raise OSError(errno.EDQUOT, "Disk quota exceeded", "/home/x")


def cache() -> None:
    """As a library's cache says it: by an error of its own that came of the system's."""
    try:
        raise OSError(errno.ENOSPC, "No space left on device")
    except OSError as error:
        raise RuntimeError("An error occurred while generating the dataset") from error


def told() -> None:
    """One that was made a line of by who knew no better."""
    try:
        cache()
    except RuntimeError as error:
        raise UserError(f"dataset 'x' cannot be loaded: {error}") from None


@pytest.mark.parametrize("fail", [arrow, torch_save, quota, cache, told])
def test_it_is_said_in_a_line_whoever_meets_it(
    fail: Callable[[], None], capsys: pytest.CaptureFixture[str]
) -> None:
    assert command(fail)() == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert WORDS in error
    assert error.count("\n") == 1


def test_other_errors_are_not_taken_for_it(capsys: pytest.CaptureFixture[str]) -> None:
    def bug() -> None:
        raise RuntimeError("no such thing")

    def missing() -> None:
        raise FileNotFoundError(errno.ENOENT, "No such file or directory", "x")

    with pytest.raises(RuntimeError):
        command(bug)()
    assert command(missing)() == 2
    assert capsys.readouterr().err == "error: No such file or directory (x)\n"
    circle, other = RuntimeError("a"), RuntimeError("b")
    circle.__cause__, other.__cause__ = other, circle
    assert not is_full(circle)


@pytest.mark.skipif(not FULL.is_char_device(), reason="a device of Linux")
@pytest.mark.parametrize("arguments", [["--help"], ["run.updates=0"]])
def test_output_that_goes_to_a_full_disk_is_no_traceback(arguments: list[str]) -> None:
    with FULL.open("w") as full:
        done = subprocess.run(
            [sys.executable, "train_dvae.py", *arguments],
            cwd=ROOT,
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
        )
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert done.stderr.startswith("error: ")


def test_a_bar_on_a_full_disk_is_lost_and_nothing_else() -> None:
    class OnAFullDisk(io.StringIO):
        def write(self, _: str) -> int:
            raise OSError(errno.ENOSPC, "No space left on device")

        def flush(self) -> None:
            raise OSError(errno.ENOSPC, "No space left on device")

    full = OnAFullDisk()
    for _ in tqdm(range(3), file=Forgiving(full), mininterval=0):
        pass
    assert Forgiving(full) == full
    assert Forgiving(full) != io.StringIO()
    whole = io.StringIO()
    for _ in tqdm(range(3), file=Forgiving(whole), mininterval=0):
        pass
    assert "3/3" in whole.getvalue()


TINY = [
    *("model.image_size=16", "model.grid=4", "model.codebook_size=12", "model.network.width=8"),
    *("model.network.groups=2", "model.network.blocks=1", "model.network.decoder_init=8"),
    *("model.network.stem_stride=2", "run.log_every=1", "run.batch_size=4", "run.save_every=1"),
    *("run.updates=4", "run.evaluate_every=2", "optimiser.lr=0.003"),
]


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Callable[[int], Path]]:
    """A disk of so many kilobytes, or the same disk made larger."""
    place = tmp_path / "disk"
    place.mkdir()

    def mount(kilobytes: int) -> Path:
        again = "remount," if os.path.ismount(place) else ""
        options = ["-t", "tmpfs", "-o", f"{again}size={kilobytes}k", "tmpfs", str(place)]
        done = subprocess.run(["mount", *options], capture_output=True, text=True)
        if done.returncode:
            pytest.skip(f"cannot mount here: {done.stderr.strip()}")
        return place

    if shutil.which("mount") is None or os.geteuid():
        pytest.skip("root alone mounts")
    yield mount
    if os.path.ismount(place):
        subprocess.run(["umount", "-l", str(place)], check=True)  # also with a file open


@pytest.mark.slow
@pytest.mark.parametrize("kilobytes", [4, 12, 40, 80, 160, 240])
def test_a_run_on_a_disk_that_fills_goes_on_when_there_is_space(
    small_disk: Callable[[int], Path],
    image_folder: Path,
    tmp_path: Path,
    run_script: Script,
    kilobytes: int,
) -> None:
    """Whatever it was that found no space, and however often that happens."""

    def train(out: Path) -> tuple[int, str, str]:
        places = f"data.path={image_folder}", f"run.out={out}"
        return run_script(train_dvae.main, *TINY, *places)

    assert train(tmp_path / "whole")[0] == 0
    out = small_disk(kilobytes) / "run"
    for _ in range(2):
        status, _, error = train(out)
        assert status == 2
        line = error.splitlines()[-1]  # those before are the progress bar's
        assert line.startswith("error: ")
        assert "disk is full" in line or "No space left" in line
        assert "Traceback" not in error
    small_disk(20_000)
    status, _, error = train(out)
    assert status == 0, error
    files = [folder / "checkpoint/model.safetensors" for folder in (tmp_path / "whole", out)]
    whole, filled = map(load_file, files)
    assert all(torch.equal(whole[name], filled[name]) for name in whole)
    assert log_lines(tmp_path / "whole") == log_lines(out)
    assert not [path for path in out.rglob(".*") if path.name != "."]
