"""Tables of what can be chosen by name, imported when it is chosen.

A line of a table is a name and where its object is: `"muon": "package.module:Object"`. Names are
known without importing anything, so that `--help` and a mistyped name answer at once.
"""

import importlib
from collections.abc import Iterator, Mapping
from typing import Generic, TypeVar, cast

from dalle_base.common.errors import UserError

T = TypeVar("T")


class Registry(Mapping[str, T], Generic[T]):
    """A read-only mapping from names to objects, each imported at its first use."""

    def __init__(self, places: Mapping[str, str | T]) -> None:
        """`places` has "module:object" strings; a test may put the object itself in their place."""
        self.places = dict(places)

    def __getitem__(self, name: str) -> T:
        place = self.places[name]
        if isinstance(place, str):
            module, _, attribute = place.partition(":")
            place = cast(T, getattr(importlib.import_module(module), attribute))
            self.places[name] = place
        return place

    def __contains__(self, name: object) -> bool:
        return name in self.places  # without importing it

    def __iter__(self) -> Iterator[str]:
        return iter(self.places)

    def __len__(self) -> int:
        return len(self.places)

    def check(self, key: str, name: str) -> None:
        """Raise `UserError` that names the config key unless `name` is in the table."""
        if name not in self.places:
            raise UserError(f"{key} is {name!r}; use one of {', '.join(self)}")
