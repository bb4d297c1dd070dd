"""What `datasets` can load: tables in files and folders, `save_to_disk` folders, hub names."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from itertools import accumulate
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from dalle_base.common.errors import UserError
from dalle_base.data.sources.at_path import TABLES, files_under, is_saved, matching, other_source

if TYPE_CHECKING:
    import datasets

SPLITS = ("train", "training", "test", "validation", "valid", "val", "dev", "eval")
"""Names of splits that the names of files and folders are searched for."""


class Files(NamedTuple):
    """Local files that hold a dataset's rows, one file after the other."""

    paths: Sequence[Path]
    reader: str
    """parquet, arrow, csv or json."""


class Loaded(NamedTuple):
    """A dataset, and where the image files that its rows name are looked for."""

    rows: Any
    """`datasets.Dataset`, or `datasets.IterableDataset` where streamed."""
    files: Files | None
    folders: Sequence[Path]


def load(path: str, split: str, streaming: bool = False) -> Loaded:
    """Load what is at a path, or the dataset of that name on the hub.

    Args:
        path: a file or glob of files, a folder of them or of `save_to_disk`, or a name.
        split: which part, where the dataset has several.
        streaming: read rows as they are needed, in the order of the files.

    Raises:
        UserError: there is nothing of the kind, or it cannot be loaded.
    """
    import datasets  # takes a second to import

    folder = Path(path)
    if folder.is_dir() and is_saved(folder):
        rows = _try(path, lambda: _saved(datasets.load_from_disk(path), path, split))
        if streaming:
            rows = rows.to_iterable_dataset(num_shards=min(64, max(1, len(rows))))
        return Loaded(rows, None, [folder])
    files = local_files(path, split)
    if files is None:
        rows = _try(path, lambda: datasets.load_dataset(path, split=split, streaming=streaming))
        return Loaded(rows, None, [])
    names = [str(each) for each in files.paths]
    options = {"data_files": {"train": names}, "split": "train", "streaming": streaming}
    if files.reader == "csv" and files.paths[0].suffix.lower() == ".tsv":
        options["sep"] = "\t"
    rows = _try(path, lambda: datasets.load_dataset(files.reader, **options))
    return Loaded(rows, files, list(dict.fromkeys(each.parent for each in files.paths)))


def local_files(path: str, split: str) -> Files | None:
    """Return the files of a table at a path; None for what can only be a name on the hub.

    Raises:
        UserError: no such files, files of another kind, or none of the split.
    """
    folder = Path(path)
    if folder.is_dir():
        found = [each for each in files_under(folder) if each.suffix.lower() in TABLES]
        best = next((kind for kind in TABLES if any(_is(each, kind) for each in found)), None)
        if best is None:
            hint = other_source(path, "datasets") or "set data.path"
            raise UserError(f"folder {path!r} holds no parquet or Arrow files; {hint}")
        found = [each for each in found if _is(each, best)]
        return Files(_of_split(found, folder, path, split), TABLES[best])
    found = matching(path)
    if not found:
        looks_local = any(sign in path for sign in "*?[~") or path.startswith(("/", "."))
        if looks_local or Path(path).suffix.lower() in TABLES:
            kind = Path(path).suffix.removeprefix(".")
            raise UserError(f"no {kind + ' ' if kind else ''}file matches {path!r}; set data.path")
        return None
    suffixes = {each.suffix.lower() for each in found}
    if len(suffixes) > 1 or not suffixes <= set(TABLES):
        hint = other_source(path, "datasets") or f"name files of one kind: {', '.join(TABLES)}"
        raise UserError(f"{path!r} names {', '.join(sorted(suffixes)) or 'other'} files; {hint}")
    return Files(found, TABLES[suffixes.pop()])


def first_line(error: BaseException) -> str:
    """Return the first line of what lies behind an error."""
    while error.__cause__ is not None:
        error = error.__cause__
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def _is(path: Path, suffix: str) -> bool:
    return path.suffix.lower() == suffix


def _split_in(path: Path, folder: Path) -> str:
    """The split that a file's name, or that of a folder around it, speaks of, or ""."""
    words = re.split(r"[^a-z]+", str(path.relative_to(folder)).lower())
    return next((word for word in words if word in SPLITS), "")


def _of_split(found: list[Path], folder: Path, path: str, split: str) -> list[Path]:
    """The files of a split, where their names tell; all where none does."""
    splits = {each: _split_in(each, folder) for each in found}
    named = sorted(set(splits.values()) - {""})
    if not named or (split == "train" and split not in named and "" in splits.values()):
        return [each for each in found if not splits[each]]
    kept = [each for each in found if splits[each] == split]
    if not kept:
        raise UserError(f"folder {path!r} has no split {split!r}; set data.split={named[0]}")
    return kept


def _try(path: str, load: Callable[[], Any]) -> Any:
    try:
        return load()
    except UserError:
        raise
    except Exception as error:
        raise UserError(f"dataset {path!r} cannot be loaded: {first_line(error)}") from None


def _saved(loaded: Any, path: str, split: str) -> datasets.Dataset:
    if not isinstance(loaded, dict):
        return loaded
    if split not in loaded:
        known = ", ".join(map(str, loaded))
        raise UserError(
            f"dataset {path!r} has no split {split!r}; set data.split to one of {known}"
        )
    return loaded[split]


class Beside:
    """Finds image files that a table names, in the folder of the file that names them."""

    def __init__(self, loaded: Loaded) -> None:
        self.folders, self.files = loaded.folders, loaded.files
        self.ends: list[int] = []
        """Of each parquet file, the row after its last."""

    def find(self, name: str, row: int) -> Path:
        """Return the file of a name in a row: as it is, or relative to the table."""
        path = Path(name)
        if path.is_absolute() or not self.folders:
            return path
        if len(self.folders) == 1:
            return self.folders[0] / path
        if self.files and self.files.reader == "parquet":
            return self._folder_of(self.files.paths, row) / path
        inside = (folder / path for folder in self.folders)
        return next((each for each in inside if each.is_file()), self.folders[0] / path)

    def _folder_of(self, files: Sequence[Path], row: int) -> Path:
        from bisect import bisect_right

        from pyarrow import parquet

        if not self.ends:
            self.ends = list(accumulate(parquet.read_metadata(each).num_rows for each in files))
        return files[min(bisect_right(self.ends, row), len(files) - 1)].parent
