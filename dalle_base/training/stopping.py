"""Ctrl-C, SIGTERM and SIGHUP as a wish: finish the current update, save, end."""

import signal
import threading
import time
from types import FrameType

from dalle_base.training import processes

SIGNALS = tuple(
    getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)
)
IMPATIENCE = 10.0
"""Seconds after which a second signal no longer counts as the first one, with several processes:
terminals and launchers both pass on a Ctrl-C."""


class StopSignals:
    """Takes note of signals between `listen` and `restore`.

    A second signal of a kind does not wait: it does what it did before. With several processes
    that holds only some seconds after the first one, and never once they are stopping: one that
    dies while they save and say goodbye would take the others with it. There signals are taken
    until the process ends, since launchers send them to the rest as soon as one has ended.
    """

    def __init__(self) -> None:
        self.asked, self.stopping, self._several = False, False, False
        self._since = 0.0
        self._previous: dict[int, signal._HANDLER] = {}

    def listen(self) -> None:
        """Take signals from here on, in the main thread; elsewhere the caller keeps its own."""
        if threading.current_thread() is not threading.main_thread():
            return
        self._several = processes.several()
        for number in SIGNALS:
            previous = signal.getsignal(number)
            # A run under nohup goes on without its terminal.
            if number == getattr(signal, "SIGHUP", None) and previous is signal.SIG_IGN:
                continue
            self._previous[number] = previous
            signal.signal(number, self._take)

    def _take(self, number: int, _: FrameType | None) -> None:
        if not self._several:
            self.asked = True
            signal.signal(number, self._previous[number])
        elif not self.asked:
            self.asked, self._since = True, time.monotonic()
        elif not self.stopping and time.monotonic() - self._since > IMPATIENCE:
            signal.signal(number, self._previous[number])
            signal.raise_signal(number)

    def restore(self) -> None:
        """Leave signals to whoever took them before, unless there are several processes."""
        if self._several:
            return
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        self._previous = {}
