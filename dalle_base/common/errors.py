"""Errors that are the user's to mend: one clear line and a non-zero exit, never a traceback."""

import contextlib
import errno
import functools
import os
import re
import sys
from collections.abc import Callable
from typing import TextIO

from dalle_base.common import interrupts

FULL = (errno.ENOSPC, errno.EDQUOT)
FULL_WORDS = ("No space left", "Disk quota exceeded", "Not enough disk space")
"""What libraries say that do not pass the system's number on."""

FREE_SPACE = "the disk is full; free some space and run the same command again"

CONTROL = re.compile("[\0-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")


class UserError(ValueError):
    """Bad input. The message is one line that names the thing at fault and says what to do.

    What it quotes may hold line breaks, or characters that steer a terminal: these are escaped.
    """

    def __init__(self, message: str) -> None:
        super().__init__(CONTROL.sub(lambda found: repr(found[0])[1:-1], str(message)))


def is_full(error: BaseException) -> bool:
    """Whether an error, or one that led to it, says that a disk (or a quota) is full."""
    seen: BaseException | None = error
    for _ in range(20):  # a chain may lead back to its start
        if seen is None:
            return False
        if getattr(seen, "errno", None) in FULL or any(word in str(seen) for word in FULL_WORDS):
            return True
        seen = seen.__cause__ or seen.__context__
    return False


def command(main: Callable[[], int | None]) -> Callable[[], int]:
    """Wrap a script's `main` so that what a user can mend prints as one line.

    A `UserError`, a full disk wherever it shows, or another error of the file system exits with
    status 2; Ctrl-C with 130.
    """

    @functools.wraps(main)
    def wrapped() -> int:
        interrupts.begin()
        try:
            return _flushed(main)
        except UserError as error:
            known = "disk is full" in str(error) or not is_full(error)
            return _end(f"error: {error}" + ("" if known else f"; {FREE_SPACE}"), 2)
        except KeyboardInterrupt:
            interrupts.end()
            return _end("interrupted", interrupts.QUIET)
        except Exception as error:
            line = _line(error)
            if line is None:  # a bug, to be seen whole
                raise
            return _end(f"error: {line}", 2)

    return wrapped


def _flushed(main: Callable[[], int | None]) -> int:
    """Call `main`; a full disk below its output shows here, not when the interpreter ends."""
    try:
        status = main() or 0
    except SystemExit:
        sys.stdout.flush()
        raise
    sys.stdout.flush()
    return status


def _line(error: Exception) -> str | None:
    """What to say of an error that is not the program's; None of any other."""
    name = getattr(error, "filename", None)
    place = f" ({name})" if name else ""
    if is_full(error):
        return f"{FREE_SPACE}{place}"
    if isinstance(error, OSError) and error.strerror is not None:
        return f"{error.strerror}{place}"
    return None


def _end(line: str, status: int) -> int:
    """Print a last line; output that cannot be written any more is given up in silence."""
    for stream, text in ((sys.stdout, ""), (sys.stderr, line + "\n")):
        try:
            stream.write(text)
            stream.flush()
        except (OSError, ValueError):
            _silence(stream)
    return status


def _silence(stream: TextIO) -> None:
    """Send what a stream still holds nowhere: else the interpreter fails on it when it ends."""
    with contextlib.suppress(OSError, ValueError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, stream.fileno())
        os.close(nowhere)
