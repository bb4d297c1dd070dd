"""What a run's options mean when it is resumed: their fields say so in their types.

    workers: Free[int] = 0                      may differ: nothing that is learned depends on it
    path: Annotated[str, Place("data")] = ""    may differ where the content is the same

All others must stay as they are, unless they are changed on purpose (`--change`).
"""

import dataclasses
from collections.abc import Mapping
from typing import Annotated, Any, NamedTuple, TypeVar, get_args, get_type_hints

T = TypeVar("T")


class _Free:
    """Marks the type of a field that may differ."""


Free = Annotated[T, _Free()]


@dataclasses.dataclass(frozen=True)
class Place:
    """Marks the type of a field that says where something is."""

    what: str
    """What is there: a name that a run's fingerprints have it under."""


class Option(NamedTuple):
    """One option of a config."""

    value: Any
    free: bool
    place: str
    """What is at the place that it names, if it names one."""


def options(
    config: Any, free: bool = False, place: str = "", prefix: str = ""
) -> dict[str, Option]:
    """Return the options of a config and all configs inside it, by dotted names.

    A mapping's keys are options of their own. What a field says of itself goes for all inside it
    that say nothing else.
    """
    found: dict[str, Option] = {}
    hints = get_type_hints(type(config), include_extras=True)
    for field in dataclasses.fields(config):
        value, name = getattr(config, field.name), f"{prefix}{field.name}"
        marks = get_args(hints[field.name])[1:]
        own = free or any(isinstance(mark, _Free) for mark in marks)
        at = next((mark.what for mark in marks if isinstance(mark, Place)), place)
        if dataclasses.is_dataclass(value):
            found |= options(value, own, at, f"{name}.")
        else:
            found |= _leaves(name, Option(value, own, at))
    return found


def _leaves(name: str, option: Option) -> dict[str, Option]:
    if not isinstance(option.value, Mapping) or not option.value:
        return {name: option}
    found: dict[str, Option] = {}
    for key, value in option.value.items():
        found |= _leaves(f"{name}.{key}", option._replace(value=value))
    return found
