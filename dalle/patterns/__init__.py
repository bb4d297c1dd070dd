"""Attention patterns, by name.

ADD A PATTERN = one file in this folder and one line in PATTERNS.
"""

import dataclasses
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from dalle_base.common.errors import UserError
from dalle_base.common.registry import Registry
from dalle_base.common.schema import build
from dalle_base.common.shown import short

if TYPE_CHECKING:
    from dalle.patterns.base import Pattern

PATTERNS: "Registry[type[Pattern]]" = Registry(
    {
        "full": "dalle.patterns.full:Full",
        "same_row": "dalle.patterns.same_row:SameRow",
        "row": "dalle.patterns.row:Row",
        "column": "dalle.patterns.column:Column",
        "conv": "dalle.patterns.conv:Conv",
    }
)


def make_pattern(name: str, options: Mapping[str, Any] | None = None) -> "Pattern":
    """Return the pattern of a name with its own options.

    Raises:
        UserError: an option that the pattern does not have, or a value that it refuses.
    """
    kind, key = PATTERNS[name], f"model.pattern_options.{name}"
    if options is not None and not isinstance(options, Mapping):
        raise UserError(f"{key} is {short(options)}, no mapping of options")
    known = [field.name for field in dataclasses.fields(kind.Options)]
    for option in options or ():
        if option not in known:
            has = f"it has {', '.join(known)}" if known else "it has none"
            raise UserError(f"{key}: no option {short(option)}; {has}")
    return kind(build(kind.Options(), options or {}, key))


def paper_layers(depth: int) -> list[str]:
    """The paper's pattern for each of `depth` layers, first to last (section 2.2).

    Layers i = 1..depth-1 are column where (i - 2) mod 4 = 0 and row elsewhere, so "row, column,
    row, row" over and over; the last is convolutional.
    """
    return [*("column" if (i - 2) % 4 == 0 else "row" for i in range(1, depth)), "conv"]
