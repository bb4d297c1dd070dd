"""Kills while files and folders are written: nothing is lost, and what is left is cleared away."""

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from dalle_base.common import files
from dalle_base.common.errors import UserError
from dalle_base.common.exchange import exchange
from dalle_base.common.files import write_folder
from dalle_base.common.leftovers import clear_leftovers, leftovers, locked, recover

WRITER = Path(__file__).with_name("killed_writer.py")
PID_MAX = 2**22
"""Above every process's number."""


def fill(text: str) -> Callable[[Path], None]:
    def write(place: Path) -> None:
        if place.is_dir():
            (place / "a").write_text(text)
            (place / "b").write_text(text)
        else:
            place.write_text(text)

    return write


def content(place: Path) -> set[str]:
    if place.is_dir():
        return {(place / "a").read_text(), (place / "b").read_text()}
    return {place.read_text()}


def killed_at_each_step(folder: Path, kind: str, exists: bool) -> list[dict[str, Any]]:
    """What a kill at each step of writing leaves, and what the next start makes of it."""
    command = [sys.executable, str(WRITER), str(folder), kind, str(exists)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return json.loads(done.stdout)


@pytest.mark.parametrize("exists", [True, False], ids=["replaced", "first"])
@pytest.mark.parametrize("kind", ["folder", "folder without exchange", "file"])
def test_a_kill_at_any_step_loses_nothing_and_leaves_nothing(
    tmp_path: Path, kind: str, exists: bool
) -> None:
    """Before and after each call by which something is written."""
    *killed, whole = killed_at_each_step(tmp_path, kind, exists)
    assert len(killed) > 10
    new, old = (["new"] * (1 if kind == "file" else 2), ["old"] * (1 if kind == "file" else 2))
    assert whole["status"] == 0
    assert whole["content"] == new
    for left in killed:
        assert left["names"] == (["checkpoint"] if left["content"] else [])
        assert left["content"] in ([old, new] if exists else [[], new])
        if left["missing"] and left["content"]:
            assert "recovered the" in left["said"][0]
    if exists and kind != "file":  # exchanged, there is no moment in which it is missing
        missing = any(left["missing"] for left in killed)
        assert missing == ("without" in kind or not can_exchange(tmp_path))
    contents = [left["content"] for left in killed]
    assert contents == sorted(contents, key=lambda content: content == new)  # never back again
    assert contents[0] != new
    assert contents[-1] == new


def can_exchange(folder: Path) -> bool:
    for name in ("one", "two"):
        (folder / name).mkdir()
    (folder / "one/x").touch()
    done = exchange(folder / "one", folder / "two")
    assert (folder / ("two" if done else "one") / "x").exists()
    return done


def leave(folder: Path, stage: str, pid: int, text: str = "x", suffix: str = "0a1b2c3d") -> Path:
    """Make a folder as a killed writer leaves it."""
    path = folder / f".checkpoint.{stage}-{pid}-{suffix}"
    path.mkdir(parents=True)
    fill(text)(path)
    return path


@pytest.mark.parametrize("broken", [False, True])
def test_leftovers_of_earlier_versions_are_recovered(tmp_path: Path, broken: bool) -> None:
    """They wrote NEW to its end before OLD came to be; what cannot be read is passed over."""
    leave(tmp_path, "new", PID_MAX + 1, "broken" if broken else "new")
    leave(tmp_path, "old", PID_MAX + 1, "old", "f0f0f0f0")
    said: list[str] = []
    recover(tmp_path / "checkpoint", said.append, lambda path: content(path) != {"broken"}, "run")
    assert content(tmp_path / "checkpoint") == {"old" if broken else "new"}
    (line,) = said
    age = "previous" if broken else "new"
    assert re.search(rf"checkpoint was missing, .*: recovered the {age} run from \.check", line)
    clear_leftovers(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint"]


def test_what_was_never_finished_is_named_and_not_used(tmp_path: Path) -> None:
    leave(tmp_path, "new", PID_MAX + 1)
    leave(tmp_path, "junk", PID_MAX + 2)
    said: list[str] = []
    recover(tmp_path / "checkpoint", said.append)
    assert "never finished" in "".join(said)
    clear_leftovers(tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_folder_that_is_there_is_never_replaced(tmp_path: Path) -> None:
    fill("mine")(leave(tmp_path, "whole", PID_MAX + 1).rename(tmp_path / "checkpoint"))
    leave(tmp_path, "whole", PID_MAX + 1)
    leave(tmp_path, "old", PID_MAX + 1)
    recover(tmp_path / "checkpoint", lambda _: None)
    clear_leftovers(tmp_path)
    assert content(tmp_path / "checkpoint") == {"mine"}
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint"]


@pytest.mark.parametrize("name", ["other", ".hidden.new", "a.new-1", ".checkpoint.new-x-1"])
def test_other_files_are_left_alone(tmp_path: Path, name: str) -> None:
    (tmp_path / name).touch()
    clear_leftovers(tmp_path)
    assert (tmp_path / name).exists()


@pytest.fixture
def living() -> Any:
    """A process that lives until the test is over."""
    process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    with process:
        yield process
        process.kill()


def test_what_belongs_to_a_living_process_is_left_alone(tmp_path: Path, living: Any) -> None:
    for pid in (living.pid, os.getpid()):
        kept = leave(tmp_path, "new", pid)
        clear_leftovers(tmp_path)
        assert kept.exists()
    leave(tmp_path, "whole", living.pid)
    with pytest.raises(UserError, match=rf"process {living.pid} is writing .*checkpoint now"):
        recover(tmp_path / "checkpoint", lambda _: None)


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="as Linux tells")
def test_a_number_that_a_later_process_has_inherited_keeps_nothing(tmp_path: Path) -> None:
    """As the first process of each container has 1."""
    kept, gone = leave(tmp_path, "new", os.getpid()), leave(tmp_path, "new", 1)
    long_ago = time.time() - 10 * 365 * 24 * 3600
    for path in (kept, gone):
        os.utime(path, (long_ago, long_ago))
    clear_leftovers(tmp_path)
    assert not kept.exists()
    assert not gone.exists()


def test_a_process_that_has_ended_unasked_for_is_dead(tmp_path: Path, living: Any) -> None:
    """A zombie: its number still is one of a process."""
    path = leave(tmp_path, "new", living.pid)
    living.send_signal(signal.SIGKILL)
    os.waitid(os.P_PID, living.pid, os.WEXITED | os.WNOWAIT)
    clear_leftovers(tmp_path)
    assert not path.exists()


def test_a_lock_keeps_what_a_process_elsewhere_is_writing(tmp_path: Path) -> None:
    """One that has no number here: in another container, say."""
    path = leave(tmp_path, "whole", PID_MAX + 1)
    with locked(path):
        clear_leftovers(tmp_path)
        assert path.exists()
        with pytest.raises(UserError, match="is writing"):
            recover(tmp_path / "checkpoint", lambda _: None)
    recover(tmp_path / "checkpoint", lambda _: None)
    assert content(tmp_path / "checkpoint") == {"x"}


def test_a_writer_is_seen_while_it_writes(tmp_path: Path) -> None:
    def look(new: Path) -> None:
        fill("x")(new)
        (mine,) = leftovers(tmp_path, "checkpoint")
        assert mine.path == new
        clear_leftovers(tmp_path)
        assert new.exists()

    write_folder(tmp_path / "checkpoint", look)
    assert content(tmp_path / "checkpoint") == {"x"}


@pytest.mark.parametrize("call", ["rename", "exchange", "fsync"])
@pytest.mark.parametrize("exchanges", [True, False])
def test_an_error_at_any_step_leaves_old_or_new_and_no_litter(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str, exchanges: bool
) -> None:
    """Each of the calls fails once, by an error of the disk or by Ctrl-C."""
    if not exchanges:
        monkeypatch.setattr(files, "exchange", lambda *_: False)
    place, name = {"rename": (Path, "rename"), "fsync": (os, "fsync")}.get(
        call, (files, "exchange")
    )
    original, target = getattr(place, name), tmp_path / "checkpoint"
    for error in (OSError(5, "Input/output error"), KeyboardInterrupt()):
        for at in range(4):
            write_folder(target, fill("old"))
            calls = iter(range(1000))

            def fail(*arguments: Any, at: int = at, error: Any = error, calls: Any = calls) -> Any:
                if next(calls) == at:
                    raise error
                return original(*arguments)

            with monkeypatch.context() as patch:
                patch.setattr(place, name, fail)
                expected = UserError if isinstance(error, OSError) else KeyboardInterrupt
                with contextlib.suppress(expected):  # some calls come after all is done
                    write_folder(target, fill("new"))
            # Ctrl-C in the midst of clearing up leaves something to the next start.
            recover(target, lambda _: None)
            assert content(target) in ({"old"}, {"new"})
            if isinstance(error, OSError):
                assert [path.name for path in tmp_path.iterdir()] == ["checkpoint"]
