"""What a process that was killed while it wrote leaves behind, found again and cleared away.

`files.py` writes `NAME` beside its place, under names of these stages:

.NAME.new-PID-HEX    being written: never complete
.NAME.whole-PID-HEX  written and synced, about to take the place of NAME
.NAME.old-PID-HEX    what was at NAME, where the two cannot be exchanged in one step
.NAME.junk-PID-HEX   replaced, about to be removed

A writer holds a lock on what it writes, which the kernel releases with the process: that holds in
other containers too, where a process has another number or another process has its.
"""

import contextlib
import os
import re
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

from dalle_base.common.errors import UserError

try:
    import fcntl
except ImportError:  # Windows: numbers of processes have to do
    fcntl = None

NEW, WHOLE, OLD, JUNK = "new", "whole", "old", "junk"
_NAME = re.compile(r"\.(?P<name>.+)\.(?P<stage>new|whole|old|junk)-(?P<pid>\d+)-\w+")
CLOCK = 1.0
"""Seconds by which the clocks of files and of processes may differ."""


class Leftover(NamedTuple):
    """A temporary file or folder of some writer."""

    path: Path
    name: str
    """What it was to become."""
    stage: str
    pid: int


def leftovers(folder: Path, name: str = "") -> Iterator[Leftover]:
    """Yield what lies in a folder under temporary names, of `name` alone if given."""
    try:
        paths = sorted(folder.iterdir())
    except OSError:
        return
    for path in paths:
        found = _NAME.fullmatch(path.name)
        if found and name in ("", found["name"]):
            yield Leftover(path, found["name"], found["stage"], int(found["pid"]))


def recover(
    target: Path,
    say: Callable[[str], None],
    complete: Callable[[Path], bool] = lambda _: True,
    what: str = "folder",
) -> None:
    """Put back what a kill has left of `target` under other names, if it is missing itself.

    Args:
        target: a file or folder that `files.py` writes.
        say: told what was found and used.
        complete: whether what was found can be read.
        what: what messages call the target.

    Raises:
        UserError: another process is writing it now.
    """
    if target.exists():
        return
    found = list(leftovers(target.parent, target.name))
    # Before there was a stage of its own for what is whole, NEW beside OLD was.
    cut = {each.pid for each in found if each.stage == OLD}
    whole = [e for e in found if e.stage == WHOLE or (e.stage == NEW and e.pid in cut)]
    whole.sort(key=lambda each: _written(each.path), reverse=True)
    usable = [*whole, *(each for each in found if each.stage == OLD)]
    for each in usable:
        if is_locked(each.path) or (each.pid != os.getpid() and in_use(each)):
            raise UserError(
                f"process {each.pid} is writing {target} now: wait for it, end it, or name another "
                "folder"
            )
    for each in usable:
        if complete(each.path):
            age = "new" if each.stage in (NEW, WHOLE) else "previous"
            with contextlib.suppress(FileNotFoundError):  # another process was faster
                each.path.rename(target)
                sync_folder(target.parent)
            say(
                f"{target} was missing, cut off while it was replaced: recovered the {age} {what} "
                f"from {each.path.name}"
            )
            return
    unfinished = [each for each in found if each.stage != JUNK and not in_use(each)]
    if unfinished:
        say(f"{unfinished[0].path} was never finished and cannot be used")


def clear_leftovers(folder: Path, name: str = "") -> None:
    """Remove what processes that are no more have left in a folder.

    What may be needed yet stays: parts of something whose place is empty (see `recover`), and all
    that belongs to a process that lives.
    """
    for each in leftovers(folder, name):
        needed = each.stage in (WHOLE, OLD) and not (folder / each.name).exists()
        if not needed and not in_use(each):
            remove(each.path)


def in_use(leftover: Leftover) -> bool:
    """Whether the process that made a temporary file or folder may still be writing it."""
    return is_locked(leftover.path) or _lives(leftover.pid, _written(leftover.path))


def remove(path: Path) -> None:
    """Remove a file or folder, as far as that is possible."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        with contextlib.suppress(OSError):
            path.unlink()


@contextlib.contextmanager
def claimed(path: Path) -> Iterator[bool]:
    """Hold the lock of a file or folder, and yield whether no other process has it.

    Where the system or the file system has no such locks, nobody has.
    """
    if fcntl is None:
        yield True
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        free = True
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            free = False
        except OSError:  # not every file system knows them
            pass
        yield free
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold the lock of a temporary file or folder, where the system has such locks."""
    with claimed(path):
        yield


def is_locked(path: Path) -> bool:
    """Whether some process holds the lock of a temporary file or folder."""
    try:
        with claimed(path) as free:
            return not free
    except OSError:  # gone
        return False


def sync_folder(folder: Path) -> None:
    """Have a folder's names on the disk, where the system can do that."""
    with contextlib.suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _written(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except OSError:
        return 0.0


def _lives(pid: int, written: float) -> bool:
    """Whether a process lives that may have written something then.

    One that started later has only inherited the number, as the first process of a container does.
    """
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except OSError:  # it is another user's
        pass
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        age = time.clock_gettime(time.CLOCK_BOOTTIME) - int(fields[19]) / os.sysconf("SC_CLK_TCK")
    except (OSError, ValueError, IndexError, AttributeError):
        return True  # a system that does not say since when
    ended = fields[0] in "ZX"  # and nobody has asked how
    return not ended and time.time() - age <= written + CLOCK
