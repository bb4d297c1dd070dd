"""Bounds of a config's numbers, declared in a field's type: `batch_size: From1 = 32`.

Every number has bounds, and NaN lies in none. `check_bounds` is the one place that holds them, and
`--help` shows them. A field whose bounds are its own writes `Annotated[int, Bounds(2, 16)]`.
"""

import dataclasses
import functools
import math
import types
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Union, get_args, get_origin, get_type_hints

from dalle_base.common.errors import UserError
from dalle_base.common.shown import short

MOST_NUMBERS = 1024
"""Numbers in a list."""


@dataclass(frozen=True)
class Bounds:
    """The range of a number; infinity belongs to it only where `high` is infinite."""

    low: float
    high: float
    above: bool = False
    """Whether `low` itself lies outside."""
    below: bool = False
    """Whether `high` itself lies outside."""
    hint: str = ""
    """What else a message says, in brackets."""

    def admit(self, value: float) -> bool:
        """Whether a number lies inside."""
        return (self.low < value if self.above else self.low <= value) and (
            value < self.high if self.below else value <= self.high
        )

    def __str__(self) -> str:
        low = f"above {_plain(self.low)}" if self.above else f"from {_plain(self.low)}"
        if self.high == math.inf:
            return low if self.above else f"{low} on"
        high = f"below {_plain(self.high)}" if self.below else _plain(self.high)
        if self.above:
            return f"{low} and {high}" if self.below else f"{low}, up to {high}"
        return f"{low} to {high}"


def _plain(value: float) -> str:
    return f"{value:,.0f}" if float(value).is_integer() else f"{value:g}"


From0 = Annotated[int, Bounds(0, 10**12)]
From1 = Annotated[int, Bounds(1, 10**12)]
"""Counts: of updates, images, rows."""
Seed = Annotated[int, Bounds(0, 2**32 - 1)]
"""What NumPy, PyTorch and Python all take."""
Width = Annotated[int, Bounds(1, 2**16)]
"""Channels, or values of a vector."""
Layers = Annotated[int, Bounds(1, 1024)]
"""Layers, blocks, heads."""
Pixels = Annotated[int, Bounds(1, 2**14)]
"""Side of an image."""
GridSide = Annotated[int, Bounds(1, 1024)]
"""Codes on a side of the grid."""
Vocabulary = Annotated[int, Bounds(1, 2**24)]
"""Tokens, or codes."""
CodebookSize = Annotated[int, Bounds(2, 2**24)]
Share = Annotated[float, Bounds(0, 1)]
ShareBelow1 = Annotated[float, Bounds(0, 1, below=True)]
Weight = Annotated[float, Bounds(0, 1e6)]
"""Of a loss, or another factor that may be 0."""
Above0 = Annotated[float, Bounds(0, 1e6, above=True)]


def check_bounds(config: Any, prefix: str = "", flags: bool = False) -> None:
    """Raise `UserError` for the first number of a dataclass instance that is out of its bounds.

    Args:
        config: what is inside it is not looked at, except lists, tuples and mappings.
        prefix: what stands before a field's name in the message: "optimiser.", say.
        flags: whether names are those of flags: `keep_rows` is then `--keep-rows`.
    """
    for name, hint in typed_fields(type(config)).items():
        written = f"--{name.replace('_', '-')}" if flags else prefix + name
        check_number(getattr(config, name), hint, written)


def check_number(value: Any, hint: Any, name: str) -> None:
    """Raise `UserError` unless all numbers in a value lie in the bounds that its type declares."""
    if isinstance(value, list) and len(value) > MOST_NUMBERS and _bounds_in(hint):
        raise UserError(f"{name} has {len(value)} numbers: write at most {MOST_NUMBERS:,}")
    for number, bounds in _numbers(value, hint):
        if not bounds.admit(number):
            kind = "whole number" if is_whole(hint) else "number"
            what = f"a {kind}" if number is value else f"{kind}s"
            more = f" ({bounds.hint})" if bounds.hint else ""
            raise UserError(f"{name} is {short(value)}: write {what} {bounds}{more}")


def range_text(hint: Any) -> str:
    """Return the bounds that a type declares as `--help` shows them; "" where it has none."""
    return "; ".join(dict.fromkeys(str(bounds) for bounds in _bounds_in(hint)))


def unbounded(hint: Any) -> bool:
    """Whether a type has a number without bounds."""
    origin, arguments = get_origin(hint), get_args(hint)
    if origin is Annotated:
        return unbounded(arguments[0]) and not any(isinstance(a, Bounds) for a in arguments[1:])
    if hint in (int, float, complex):
        return True
    return any(unbounded(each) for each in arguments)


@functools.cache
def typed_fields(schema: type) -> dict[str, Any]:
    """Return the types of a dataclass's fields, with the bounds that they declare."""
    hints = get_type_hints(schema, include_extras=True)
    return {field.name: hints[field.name] for field in dataclasses.fields(schema)}


def _numbers(value: Any, hint: Any) -> Iterator[tuple[float, Bounds]]:
    """Yield the numbers in a value with the bounds that a type has for them."""
    origin, arguments = get_origin(hint), get_args(hint)
    if origin is Annotated:
        if isinstance(value, int | float) and not isinstance(value, bool):
            yield from ((value, each) for each in arguments[1:] if isinstance(each, Bounds))
        else:
            yield from _numbers(value, arguments[0])
    elif origin in (Union, types.UnionType):
        for each in arguments:
            yield from _numbers(value, each)
    elif origin in (list, tuple) and isinstance(value, list | tuple):
        fixed = origin is tuple and len(arguments) == len(value) and ... not in arguments
        kinds = arguments if fixed else [arguments[0]] * len(value)
        for item, kind in zip(value, kinds, strict=True):
            yield from _numbers(item, kind)
    elif origin is dict and isinstance(value, Mapping):
        for item in value.values():
            yield from _numbers(item, arguments[1])


def _bounds_in(hint: Any) -> list[Bounds]:
    own = [each for each in get_args(hint) if isinstance(each, Bounds)]
    return own + [bounds for each in get_args(hint) for bounds in _bounds_in(each)]


def is_whole(hint: Any) -> bool:
    """Whether the numbers of a type are whole."""
    return hint is int or any(is_whole(each) for each in get_args(hint))
