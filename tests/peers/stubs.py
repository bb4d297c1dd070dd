"""Stand-ins for packages that the peers import but that these files do not need.

The scripts beside it make files by the packages that published weights come from. Each runs in a
process of its own, with its package in a folder of its own, and imports nothing of ours: `python
SCRIPT OUT` writes weights with random values, and what the package makes of them.
"""

import sys
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any


class Stub(ModuleType):
    """A module, or anything in one: it has whatever is asked for, and can be called."""

    __path__: list[str] = []  # noqa: RUF012

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return Stub(f"{self.__name__}.{name}")

    def __call__(self, *_: Any, **__: Any) -> Any:
        return self

    def __mro_entries__(self, _: Any) -> tuple[type]:
        return (object,)


class Finder:
    """Finds a stub for every module of the given packages."""

    def __init__(self, *packages: str) -> None:
        self.packages = packages

    def find_spec(self, name: str, *_: Any) -> ModuleSpec | None:
        return ModuleSpec(name, self) if name.split(".")[0] in self.packages else None  # type: ignore[arg-type]

    def create_module(self, spec: ModuleSpec) -> Stub:
        return Stub(spec.name)

    def exec_module(self, module: ModuleType) -> None: ...


def stub(*packages: str) -> None:
    """Make imports of these packages give stubs."""
    sys.meta_path.insert(0, Finder(*packages))  # type: ignore[arg-type]
