"""Ctrl-C while a script starts: one line and no traceback, from the script's first import on.

Importing this is enough, and scripts do so first. Nothing changes where another program imports it.
"""

import os
import signal
import sys
from types import FrameType

QUIET = 130
"""Exit status after Ctrl-C, as shells have it."""
_ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))  # noqa: PTH100, PTH120
_WITH_SCRIPTS = (
    *(".", "dalle", "dalle_base", "dalle_evaluation", "dalle_guided"),
    *("dalle_published", "dual_encoder", "dvae", "unclip"),
    *("corpora", "experiments", "benchmarks"),
)
_state = {"started": False}


def _is_script() -> bool:
    """Whether the program that runs is a script of this project."""
    path = getattr(sys.modules.get("__main__"), "__file__", None)
    if not path:
        return False
    folder = os.path.relpath(os.path.dirname(os.path.abspath(path)), _ROOT)  # noqa: PTH100, PTH120
    return folder.partition(os.sep)[0] in _WITH_SCRIPTS


def interrupt(_: int, frame: FrameType | None) -> None:
    """Raise `KeyboardInterrupt`; but end the process at once while modules are imported.

    Native modules make other errors of an interrupt, and nothing is lost yet.
    """
    importing = not _state["started"]
    while frame is not None and not importing:
        importing = frame.f_code.co_filename.startswith("<frozen importlib")
        frame = frame.f_back
    if not importing:
        raise KeyboardInterrupt
    try:
        os.write(2, b"interrupted\n")
    finally:
        os._exit(QUIET)


def begin() -> None:
    """Say that the script has read its first imports: from here on an interrupt is an exception."""
    _state["started"] = True


def end() -> None:
    """Ignore further interrupts: the script is about to end with its status."""
    if signal.getsignal(signal.SIGINT) is interrupt:
        signal.signal(signal.SIGINT, signal.SIG_IGN)


if _is_script() and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
    signal.signal(signal.SIGINT, interrupt)
