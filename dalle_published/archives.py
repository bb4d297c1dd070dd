"""Weights in files of `torch.save` (zip and legacy) and TorchScript, read without trusting them.

The pickle inside is read by `dalle_published.unpickling`, code never. Storages are read
afterwards, for the tensors that are asked for, and no byte beyond what the file holds.
"""

import io
import zipfile
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import torch
from torch import Tensor

from dalle_base.common.errors import UserError
from dalle_published.unpickling import StandIn, StoredStorage, StoredTensor, read_pickle

MAGIC, PROTOCOL = 0x1950A86A20F9469CFC6C, 1001  # what legacy files begin with
LARGEST_PICKLE = 16 * 2**20  # without the tensors, models of billions of parameters take 1 MB
DEEPEST = 32


@dataclass
class Archive:
    """A file whose pickle has been read and whose tensors have not."""

    path: Path
    """The file."""
    root: Any
    """What was saved: plain data, `StandIn` and `StoredTensor`."""
    script: bool
    """Whether it is a TorchScript archive."""
    entries: dict[str, str] = field(default_factory=dict)
    """Zip layout: the entry of each storage, by key."""
    places: dict[str, int] = field(default_factory=dict)
    """Legacy layout: the first byte of each storage, by key."""

    def tensors(self, wanted: Mapping[str, StoredTensor]) -> dict[str, Tensor]:
        """Read tensors, each into memory of its own. Raises `UserError` if the file is damaged."""
        left = self.path.stat().st_size
        for stored in wanted.values():
            left -= stored.count * stored.storage.dtype.itemsize
        if left < 0:
            raise UserError(f"{self.path} describes more values than it holds; download it again")
        try:
            with self.path.open("rb") as file:
                read = self._from_places(file) if self.places else self._from_zip(file)
                return {
                    name: _tensor(stored, read(stored.storage)) for name, stored in wanted.items()
                }
        except Exception as error:
            raise _damaged(self.path, error) from None

    def _from_places(self, file: IO[bytes]) -> Callable[[StoredStorage], bytes]:
        def read(storage: StoredStorage) -> bytes:
            file.seek(self.places[storage.key])
            return file.read(storage.count * storage.dtype.itemsize)

        return read

    def _from_zip(self, file: IO[bytes]) -> Callable[[StoredStorage], bytes]:
        archive = zipfile.ZipFile(file)
        return lambda storage: archive.read(self.entries[storage.key])


def _tensor(stored: StoredTensor, content: bytes) -> Tensor:
    storage = stored.storage
    if len(content) < storage.count * storage.dtype.itemsize:
        raise ValueError("a storage shorter than stated")
    if not stored.count:
        return torch.empty(stored.shape, dtype=storage.dtype)
    values = torch.frombuffer(bytearray(content), dtype=storage.dtype, count=storage.count)
    return values.as_strided(stored.shape, stored.strides, stored.offset).contiguous()


def named_tensors(root: Any) -> dict[str, StoredTensor]:
    """Return the tensors of a module or of nested mappings, named as in a state dict.

    A module is one that was pickled whole or one of TorchScript.
    """
    found: dict[str, StoredTensor] = {}
    seen: set[int] = set()
    left = [("", 0, root)]
    while left:
        name, depth, item = left.pop()
        if isinstance(item, StoredTensor):
            found[name] = item
        state = item.state if isinstance(item, StandIn) else item
        # Each mapping once: one that holds itself, directly or many times over, has no end.
        if not isinstance(state, dict) or id(state) in seen or depth > DEEPEST:
            continue
        seen.add(id(state))
        parts = [state]
        if "_parameters" in state:
            parts = [state.get(key) for key in ("_parameters", "_buffers", "_modules")]
        for part in parts:
            for key, value in part.items() if isinstance(part, dict) else ():
                if type(key) is str:
                    left.append((f"{name}.{key}" if name else key, depth + 1, value))
    return found


def read_archive(path: Path, allowed: Collection[str] = ()) -> Archive:
    """Read the pickle of a torch archive, zip or legacy, or of a TorchScript archive.

    `allowed` are full names of classes that may occur in it. Raises `UserError` for a file that
    asks for any other, which is named, and for one that is damaged or something else.
    """
    check_file(path)
    try:
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as file:
                return _read_zip(file, path, allowed)
        return _read_legacy(path, allowed)
    except UserError:
        raise
    except Exception as error:  # a damaged pickle can raise anything
        raise _damaged(path, error) from None


def check_file(path: Path) -> None:
    """Raise `UserError` unless `path` is a file."""
    if not path.exists():
        raise UserError(f"no file {path}; name the downloaded weights")
    if not path.is_file():
        raise UserError(f"{path} is a folder; name the file with the weights in it")


def _damaged(path: Path, error: Exception) -> UserError:
    reason = (str(error).splitlines() or [""])[0][:200] or type(error).__name__
    return UserError(
        f"{path} is damaged, truncated or no archive of torch ({reason}); download it again"
    )


def _read_zip(file: zipfile.ZipFile, path: Path, allowed: Collection[str]) -> Archive:
    # Tensors are stored as they are. What is packed, or overlaps, could be larger than the file.
    plain = {i.filename: i for i in file.infolist() if i.compress_type == zipfile.ZIP_STORED}
    if sum(entry.file_size for entry in plain.values()) > path.stat().st_size:
        raise ValueError("entries longer than the file")
    roots = [name.removesuffix("data.pkl") for name in plain if name.endswith("/data.pkl")]
    if len(roots) != 1:
        raise ValueError("a zip file without one data.pkl")
    root = roots[0]
    order = root + "byteorder"
    if order in plain and file.read(order) != b"little":
        raise ValueError("big-endian numbers")
    if plain[root + "data.pkl"].file_size > LARGEST_PICKLE:
        raise ValueError("a pickle too long to hold no tensors")
    script = root + "constants.pkl" in file.namelist()
    with file.open(root + "data.pkl") as stream:
        # In memory, since a stream from a zip file is slow to read byte by byte.
        content = io.BytesIO(stream.read())
    saved = read_pickle(content, str(path), allowed, script)
    storages = root + "data/"
    entries = {name.removeprefix(storages): name for name in plain if name.startswith(storages)}
    for key, storage in saved.storages.items():
        if plain[entries[key]].file_size < storage.count * storage.dtype.itemsize:
            raise ValueError("a storage shorter than stated")
    return Archive(path, saved.root, script, entries=entries)


def _read_legacy(path: Path, allowed: Collection[str]) -> Archive:
    with path.open("rb") as file:
        if file.read(2) == b"PK":
            raise ValueError("the end of a zip file is missing")
        file.seek(0)
        head = [read_pickle(file, str(path)).root for _ in range(3)]
        if head[:2] != [MAGIC, PROTOCOL]:
            raise ValueError("it does not begin as one")
        if head[2]["little_endian"] is not True:
            raise ValueError("big-endian numbers")
        saved = read_pickle(file, str(path), allowed)
        places: dict[str, int] = {}
        for key in read_pickle(file, str(path)).root:
            storage = saved.storages[key]
            if int.from_bytes(file.read(8), "little") != storage.count:
                raise ValueError("a storage of another length than stated")
            places[key] = file.tell()
            file.seek(storage.count * storage.dtype.itemsize, 1)
        if file.tell() > path.stat().st_size:
            raise ValueError("its end is missing")
    return Archive(path, saved.root, False, places=places)
