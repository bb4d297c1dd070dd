"""Notices that another process of a run has ended, also where its connections do not say so.

A thread of each process writes a beat into the store that they share, and reads its neighbour's.
"""

import contextlib
import os
import socket
import sys
import threading
import time
from pathlib import Path

from torch.distributed.distributed_c10d import Store

from dalle_base.training import processes

BEAT = 2.0
"""Seconds between two looks."""
SILENCE = 900.0
"""Seconds without a beat after which a process counts as lost. One that writes a large file may not
get to beat; one that has ended on the same machine is noticed at the next look."""
STATUS = 2

_ended = threading.Event()
_thread: threading.Thread | None = None
_store: Store | None = None


def start(store: Store) -> None:
    """Watch over the processes of a run, in a thread of its own. `store` is this thread's alone."""
    global _thread, _store
    _ended.clear()
    _store = store
    _thread = threading.Thread(target=_watch, args=(store,), daemon=True, name="watchdog")
    _thread.start()


def stop(note: str = "") -> None:
    """Watch no longer. A `note` tells the other processes that this one ends before its time."""
    global _thread, _store
    _ended.set()
    if _thread is None or _store is None:
        return
    _thread.join(timeout=2 * BEAT)
    if note and not _thread.is_alive():
        with contextlib.suppress(RuntimeError):  # the store has gone as well
            _store.set("lost", f"process {processes.rank()} {note}")
    _thread = _store = None


def farewell(what: str) -> str:
    """What a process says that ends because another one did."""
    return (
        f"{what}: another process of the run has ended (its own lines say why); the same command "
        "resumes from the last checkpoint"
    )


def _watch(store: Store) -> None:
    own, world = processes.rank(), processes.count()
    watched = _Neighbour((own + 1) % world)
    beats = 0
    try:
        store.set(f"place {own}", f"{_machine()} {os.getpid()}")
        while not _ended.wait(BEAT):
            beats += 1
            store.set(f"beat {own}", str(beats))
            if store.check(["lost"]):
                _end(store.get("lost").decode())
            if watched.lost(store):
                store.set("lost", f"process {watched.rank} is gone")
    except RuntimeError:  # who held the store has ended
        if not _ended.is_set():
            _end("the first process is gone")


def _end(what: str) -> None:
    # Whoever waits for an answer in a library's code would learn of it first: give it time to.
    if _ended.wait(2 * BEAT):
        return
    print(f"error: {farewell(what)}", file=sys.stderr, flush=True)
    os._exit(STATUS)


class _Neighbour:
    """The next process, as its notes show it."""

    def __init__(self, rank: int) -> None:
        self.rank, self.seen, self.since = rank, "", time.monotonic()
        self.machine, self.pid = "", 0

    def lost(self, store: Store) -> bool:
        """Whether it has ended, or been silent for too long."""
        if not self.pid and store.check([f"place {self.rank}"]):
            machine, pid = store.get(f"place {self.rank}").decode().rsplit(" ", 1)
            self.machine, self.pid = machine, int(pid)
        if self.machine == _machine() and _has_ended(self.pid):
            return True
        name = f"beat {self.rank}"
        beat = store.get(name).decode() if store.check([name]) else ""
        if beat != self.seen:
            self.seen, self.since = beat, time.monotonic()
        return time.monotonic() - self.since > SILENCE


def _machine() -> str:
    """What tells machines apart, and containers whose processes have numbers of their own."""
    numbers = Path("/proc/self/ns/pid")
    return f"{socket.gethostname()} {numbers.readlink() if numbers.is_symlink() else ''}"


def _has_ended(pid: int) -> bool:
    """Whether a process of this machine has ended, be it that nobody has asked for its status."""
    if not Path("/proc/self").exists():
        return False  # where there is no such table, the beats alone tell
    try:
        state = Path(f"/proc/{pid}/stat").read_text("utf-8").rsplit(")", 1)[1].split()[0]
    except (OSError, IndexError):
        return True
    return state in "ZX"
