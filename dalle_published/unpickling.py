"""Pickles of PyTorch read without running anything in them.

A pickle is a program: it names functions of any module and has them called. Here a name that is
not on a list is refused, and what is on it is inert: the calls that rebuild tensors only note down
what they were given, modules and containers become stand-ins that keep their state. Nothing that
a pickle can reach is a function, or an object of a library: not even its attributes can be changed.
"""

import math
import pickle
import pickletools
from collections.abc import Callable, Collection
from typing import IO, Any, NamedTuple, Self

import torch

from dalle_base.common.errors import UserError

STORAGES = {
    "DoubleStorage": torch.float64,
    "FloatStorage": torch.float32,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "ShortStorage": torch.int16,
    "CharStorage": torch.int8,
    "ByteStorage": torch.uint8,
    "BoolStorage": torch.bool,
}
"""The types of storage that are read."""
MOST_TUPLES = 100_000
"""A tensor takes five; Python itself crashes on what is nested a million deep."""


MAPPINGS = ("collections.defaultdict", "pytorch_lightning.utilities.parsing.AttributeDict")
"""Classes whose stand-in keeps items, since pickles set them; read where they are allowed."""


class StandIn:
    """What stands for an object of a library: it keeps its state and does nothing."""

    name = ""
    """Full name of the class that the pickle asks for."""

    state: Any

    def __new__(cls, *_: Any, **__: Any) -> Self:
        made = object.__new__(cls)
        made.state = None
        return made

    def __init__(self, *_: Any, **__: Any) -> None: ...

    def __setstate__(self, state: Any) -> None:
        self.state = state


class Mapping(dict):
    """An `OrderedDict` without the attributes that a pickle may want to set."""

    def __setstate__(self, state: Any) -> None: ...


class _Items(Mapping):
    """A mapping of another class, whose arguments are not looked at."""

    def __init__(self, *_: Any) -> None:
        super().__init__()


class StoredStorage(NamedTuple):
    """A storage, not yet read, as the pickle states it."""

    key: str
    """Its name in the file."""
    dtype: torch.dtype
    """Type of its values."""
    count: int
    """Number of its values."""


class StoredTensor:
    """A tensor, not yet read: where it lies in a storage. Raises `ValueError` if it lies outside.

    The arguments are those of `torch._utils._rebuild_tensor_v2`.
    """

    storage: StoredStorage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    count: int
    """Number of values."""

    def __new__(cls, storage: Any, offset: Any, shape: Any, strides: Any, *_: Any) -> Self:
        numbers = (offset, *shape, *strides)
        if not isinstance(storage, StoredStorage) or any(type(n) is not int for n in numbers):
            raise ValueError("a tensor that is no part of a storage")
        if len(shape) != len(strides) or min(numbers) < 0:
            raise ValueError("a tensor with impossible strides")
        count = math.prod(shape)
        last = offset + sum((n - 1) * step for n, step in zip(shape, strides, strict=True))
        # No more values than the storage has: strides of 0 could blow a few bytes up to any size.
        if count > storage.count or (count and last >= storage.count):
            raise ValueError("a tensor that reaches beyond its storage")
        made = object.__new__(cls)
        made.storage, made.offset, made.count = storage, offset, count
        made.shape, made.strides = tuple(shape), tuple(strides)
        return made

    def __setstate__(self, state: Any) -> None:
        raise ValueError("a tensor with a state")


class _Parameter:
    """`torch._utils._rebuild_parameter`, whose first argument is the tensor."""

    def __new__(cls, data: Any, *_: Any) -> Any:
        return data

    def __setstate__(self, state: Any) -> None: ...


class StorageType(StandIn):
    """A storage's class, such as `torch.FloatStorage`."""

    dtype = torch.float32


def _stand_in(name: str) -> type[StandIn]:
    return type("StandIn", (StandIn,), {"name": name})


class Unpickled(NamedTuple):
    """What a pickle describes."""

    root: Any
    """Plain data, `StandIn` and `StoredTensor`."""
    storages: dict[str, StoredStorage]
    """The storages that it names, by key."""


def read_pickle(
    file: IO[bytes], name: str, allowed: Collection[str] = (), script: bool = False
) -> Unpickled:
    """Read a pickle from where `file` stands to its end.

    `allowed` are full names of classes that become a `StandIn`; in a `script` (TorchScript) all
    classes of the archive's own code do. Tensors become a `StoredTensor`. Raises `UserError` that
    names whatever else the pickle asks for, and other exceptions where it is damaged.
    """
    start, tuples = file.tell(), 0
    for opcode, argument, position in pickletools.genops(file):
        # A memo is a table as long as its largest index: a lying one takes all memory.
        if "PUT" in opcode.name and isinstance(argument, int) and argument > (position or 0):
            raise ValueError("a memo index beyond the pickle")
        tuples += "TUPLE" in opcode.name
        if tuples > MOST_TUPLES:
            raise ValueError("more tuples than weights need")
    file.seek(start)
    unpickler = _Unpickler(file, name, allowed, script)
    return Unpickled(unpickler.load(), unpickler.storages)


class _Unpickler(pickle.Unpickler):
    def __init__(
        self, file: IO[bytes], source: str, allowed: Collection[str], script: bool
    ) -> None:
        super().__init__(file, encoding="utf-8")
        self.source, self.allowed, self.script = source, allowed, script
        self.storages: dict[str, StoredStorage] = {}
        self.found: dict[str, Callable[..., Any]] = {
            # Made anew for each pickle, so that none can leave anything behind for the next.
            "collections.OrderedDict": type("Mapping", (Mapping,), {}),
            "torch._utils._rebuild_tensor": type("StoredTensor", (StoredTensor,), {}),
            "torch._utils._rebuild_tensor_v2": type("StoredTensor", (StoredTensor,), {}),
            "torch._utils._rebuild_parameter": type("_Parameter", (_Parameter,), {}),
        }
        for storage, dtype in STORAGES.items():
            made = {"name": f"torch.{storage}", "dtype": dtype}
            self.found[f"torch.{storage}"] = type("StorageType", (StorageType,), made)
        for inert in ("torch.device", "__builtin__.set", "builtins.set"):
            self.found[inert] = _stand_in(inert)

    def find_class(self, module: str, name: str, /) -> Any:
        full = f"{module}.{name}"
        if full not in self.found:
            own = self.script and full.startswith(("__torch__.", "torch.jit._pickle."))
            if full not in self.allowed and not own:
                raise UserError(
                    f"{self.source} asks for {full}, which is not needed for weights: it is not "
                    "opened; get the file from its publisher"
                )
            items = full in MAPPINGS
            self.found[full] = type("Items", (_Items,), {}) if items else _stand_in(full)
        return self.found[full]

    def persistent_load(self, pid: Any, /) -> Any:
        kind, *rest = pid
        # Legacy files store a module's class with its source, which is not looked at.
        if kind == "module" and isinstance(rest[0], type) and issubclass(rest[0], StandIn):
            return rest[0]
        storage_type, key, _, count, *view = rest
        known = isinstance(storage_type, type) and issubclass(storage_type, StorageType)
        if kind != "storage" or not known or type(key) is not str or type(count) is not int:
            raise ValueError("a persistent object that is no storage")
        if count < 0 or any(part is not None for part in view):
            raise ValueError("a storage that is part of another one")
        storage = StoredStorage(key, storage_type.dtype, count)
        if self.storages.setdefault(key, storage) != storage:
            raise ValueError("a storage of two types or lengths")
        return storage
