"""Work in a thread that reports as it goes, as an iterator."""

import queue
import threading
from collections.abc import Callable, Generator
from typing import Any, TypeVar

T = TypeVar("T")
Report = Callable[[T], None]


class AbandonedError(Exception):
    """Raised inside the work when nobody waits for it any more."""


def reports(work: Callable[[Report[T]], None]) -> Generator[T, None, None]:
    """Yield what some work reports, as it does. Raises what it raises.

    Closing the iterator (a visitor who leaves) ends the work at its next report.
    """
    said: queue.SimpleQueue[tuple[str, Any]] = queue.SimpleQueue()
    gone = threading.Event()

    def report(value: T) -> None:
        if gone.is_set():
            raise AbandonedError
        said.put(("said", value))

    def run() -> None:
        try:
            work(report)
        except BaseException as error:
            said.put(("failed", error))
        else:
            said.put(("done", None))

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    try:
        while True:
            kind, value = said.get()
            if kind == "failed":
                raise value
            if kind == "done":
                return
            yield value
    finally:
        gone.set()
        thread.join()
