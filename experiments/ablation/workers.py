"""Works off cells in processes of their own, several at a time."""

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from tqdm import tqdm

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

from dalle_base.common.errors import UserError
from dalle_base.common.report import say, write_json
from experiments.ablation.cells import DONE, FAILED, LOG, RESULT, Cell, worker_command
from experiments.ablation.work import STOPPED

POLL = 0.2
"""Seconds between two looks at the processes."""
PATIENCE = 120.0
"""Seconds that a process may take to save when all is stopped."""
HELD = 30.0
"""Seconds to wait for the processes of a command that was killed: they save and end."""


class Working(NamedTuple):
    """A cell and its process."""

    cell: Cell
    process: subprocess.Popen[bytes]


@contextlib.contextmanager
def only_one(out: Path) -> Iterator[int]:
    """Hold a folder for this command and its processes; yields the lock's file descriptor.

    Raises `UserError`: another command has it.
    """
    lock = os.open(out / ".lock", os.O_RDWR | os.O_CREAT)
    until = time.monotonic() + HELD
    try:
        while not _taken(lock):
            if time.monotonic() > until:
                raise UserError(
                    f"another command works in {out}: let it end, or name another --out"
                )
            time.sleep(POLL)
        yield lock
    finally:
        os.close(lock)


def _taken(lock: int) -> bool:
    """Whether a lock is this process's now, or no such locks are to be had."""
    if fcntl is None:
        return True
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:  # not every file system knows them
        return True
    return True


def work_off(cells: Sequence[Cell], processes: int, threads: int, lock: int) -> None:
    """Train and measure what is not finished yet; what fails is noted and the rest goes on.

    Args:
        cells: in the order in which they start.
        processes: how many at a time.
        threads: of each.
        lock: what `only_one` yields; a process that outlives this one goes on to hold it.

    Raises:
        UserError: the base of the comparison has failed from its first seed.
        KeyboardInterrupt: after Ctrl-C or SIGTERM, with all trainings saved.
    """
    left = [cell for cell in cells if cell.result()["status"] != DONE]
    base = cells[0].variant.name
    working: list[Working] = []
    bar = tqdm(total=len(cells), initial=len(cells) - len(left), unit="cell", dynamic_ncols=True)
    with bar, _terminated():
        try:
            while left or working:
                while left and len(working) < processes:
                    working.append(_start(left.pop(0), threads, lock))
                    bar.set_postfix_str("; ".join(each.cell.name for each in working))
                time.sleep(POLL)
                for ended in [each for each in working if each.process.poll() is not None]:
                    working.remove(ended)
                    _end(ended)
                    bar.update()
                    _check_base(ended.cell, base)
        finally:
            _stop(working)


def run_alone(cell: Cell, threads: int) -> None:
    """Train a cell and wait for its end. Raises `KeyboardInterrupt` as `work_off` does."""
    with _terminated():
        working = [_start(cell, threads, None)]
        try:
            while working[0].process.poll() is None:
                time.sleep(POLL)
            _end(working.pop())
        finally:
            _stop(working)


def _start(cell: Cell, threads: int, lock: int | None) -> Working:
    command, environment = worker_command(cell)
    environment["OMP_NUM_THREADS"] = str(threads)
    (cell.folder / RESULT).unlink(missing_ok=True)
    with (cell.folder / LOG).open("ab") as log:
        process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=log,
            stderr=subprocess.STDOUT,
            env=environment,
            pass_fds=() if lock is None or os.name == "nt" else (lock,),
            start_new_session=True,  # Ctrl-C is this process's to pass on
        )
    return Working(cell, process)


def _end(ended: Working) -> None:
    """Note what became of a cell whose process has ended by itself."""
    cell, status = ended.cell, ended.process.returncode
    if ended.process.stdin:
        ended.process.stdin.close()
    result = cell.result()
    if result["status"] not in (DONE, FAILED):
        why = f"signal {-status}" if status < 0 else f"status {status}"
        result = {"status": FAILED, "reason": f"its process ended with {why}; see {LOG}"}
        write_json(cell.folder / RESULT, result)
    if result["status"] == FAILED:
        say(f"failed: {cell.name}: {result['reason']}", error=True)


def _check_base(cell: Cell, base: str) -> None:
    result = cell.result()
    if cell.variant.name == base and result["status"] == FAILED:
        raise UserError(
            f"the base {base!r} does not train, so that there is nothing to compare with "
            f"({cell.folder / LOG}): {result['reason']}"
        )


def _stop(working: list[Working]) -> None:
    """Ask processes to save and end, and wait for them."""
    for each in working:
        with contextlib.suppress(OSError):
            each.process.send_signal(signal.SIGTERM)
    until = time.monotonic() + PATIENCE
    for each in working:
        try:
            each.process.wait(max(0.1, until - time.monotonic()))
        except subprocess.TimeoutExpired:
            each.process.kill()
            each.process.wait()
        if each.process.stdin:
            with contextlib.suppress(OSError):
                each.process.stdin.close()
        if each.process.returncode == STOPPED:
            say(f"saved: {each.cell.name}")


@contextlib.contextmanager
def _terminated() -> Iterator[None]:
    """Let SIGTERM and SIGHUP be a Ctrl-C."""

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    numbers = [signal.SIGTERM, *([signal.SIGHUP] if hasattr(signal, "SIGHUP") else [])]
    before = {number: signal.signal(number, interrupt) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def cores() -> int:
    """Return how many processors this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
