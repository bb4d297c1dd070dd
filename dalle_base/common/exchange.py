"""Two names exchanged in one step: at no moment is one of them missing."""

import ctypes
import functools
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

EXCHANGE, HERE = 2, -100
"""RENAME_EXCHANGE and AT_FDCWD of Linux."""


def exchange(first: Path, second: Path) -> bool:
    """Exchange two files or folders of one file system; False where the system cannot."""
    call = _renameat2()
    if call is None:
        return False
    return call(HERE, os.fsencode(first), HERE, os.fsencode(second), EXCHANGE) == 0


@functools.cache
def _renameat2() -> Callable[..., Any] | None:
    try:
        function = ctypes.CDLL(None).renameat2
    except (OSError, AttributeError, TypeError):  # another system, or an older C library
        return None
    function.argtypes = [ctypes.c_int, ctypes.c_char_p] * 2 + [ctypes.c_uint]
    return function
