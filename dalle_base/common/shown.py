"""Values as messages show them, short; and which of them can be written down at all."""

import re
import reprlib
from collections.abc import Mapping
from typing import Any


class _Short(reprlib.Repr):
    def __init__(self) -> None:
        super().__init__()
        self.maxstring = self.maxother = self.maxlong = 80
        self.maxlevel, self.maxdict, self.maxlist, self.maxtuple = 3, 4, 8, 8

    def repr_int(self, x: int, level: int) -> str:
        # Python refuses to write out thousands of digits.
        return repr(x) if x.bit_length() < 200 else "a number of more than 60 digits"

    repr1_int = repr_int


def short(value: Any) -> str:
    """Return `repr(value)`, with an ellipsis for what would make it long."""
    return " ".join(_Short().repr(value).split())


def is_writable(value: Any) -> bool:
    """Whether the texts in a value have neither NUL nor halves of surrogate pairs.

    No file and no file's name can hold these; the command line has them for bytes that are not
    UTF-8.
    """
    if isinstance(value, str):
        return not re.search("[\0\ud800-\udfff]", value)
    if isinstance(value, Mapping):
        return all(map(is_writable, [*value, *value.values()]))
    return not isinstance(value, list | tuple) or all(map(is_writable, value))
