"""Errors that are the user's to mend: one clear line and a non-zero exit, never a traceback."""

import functools
import sys
from collections.abc import Callable


class UserError(ValueError):
    """Bad input. The message is one line that names the thing at fault and says what to do."""


def command(main: Callable[[], int | None]) -> Callable[[], int]:
    """Wrap a script's `main` so that what a user can mend prints as one line.

    A `UserError`, or an error of the file system such as a full disk, exits with status 2; Ctrl-C
    with 130.
    """

    @functools.wraps(main)
    def wrapped() -> int:
        try:
            return main() or 0
        except UserError as error:
            print(f"error: {error}", file=sys.stderr)
            return 2
        except OSError as error:
            if error.strerror is None:  # not from the file system: a bug, to be seen whole
                raise
            place = f" ({error.filename})" if error.filename else ""
            print(f"error: {error.strerror}{place}", file=sys.stderr)
            return 2
        except KeyboardInterrupt:
            print("interrupted", file=sys.stderr)
            return 130

    return wrapped
