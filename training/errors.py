"""Errors that are the user's to mend: one clear line and a non-zero exit, never a traceback."""

import functools
import sys
from collections.abc import Callable


class UserError(ValueError):
    """Bad input. The message is one line that names the thing at fault and says what to do."""


def command(main: Callable[[], int | None]) -> Callable[[], int]:
    """Wrap a script's `main` so that a `UserError` prints as one line and exits with status 2."""

    @functools.wraps(main)
    def wrapped() -> int:
        try:
            return main() or 0
        except UserError as error:
            print(f"error: {error}", file=sys.stderr)
            return 2

    return wrapped
