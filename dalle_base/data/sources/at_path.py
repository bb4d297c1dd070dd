"""What kind of data is at a path, and which source reads it."""

import glob
import itertools
import os
from collections.abc import Iterator
from pathlib import Path

from dalle_base.data.image_files import SUFFIXES

TAR = ".tar"
TABLES = {
    ".parquet": "parquet",
    ".arrow": "arrow",
    ".csv": "csv",
    ".tsv": "csv",
    ".json": "json",
    ".jsonl": "json",
}
"""Suffixes of files with a row for each image, and the reader of `datasets` for each."""
SAVED = ("dataset_info.json", "dataset_dict.json")
"""What a folder written by `save_to_disk` has."""
MOST_LOOKED_AT = 10_000


def files_under(folder: Path) -> Iterator[Path]:
    """Yield the files under a folder, sorted in each, but for hidden files and folders."""
    for place, inner, names in os.walk(folder):
        inner[:] = sorted(name for name in inner if not name.startswith("."))
        yield from (Path(place) / name for name in sorted(names) if not name.startswith("."))


def matching(path: str) -> list[Path]:
    """Return the files that a path or glob names (`**` goes into folders), sorted."""
    if Path(path).is_file():  # its name may have brackets
        return [Path(path)]
    found = (Path(each) for each in glob.glob(path, recursive=True))  # noqa: PTH207
    return sorted(each for each in found if each.is_file() and not each.name.startswith("."))


def is_saved(folder: Path) -> bool:
    """Whether `save_to_disk` of `datasets` wrote a folder."""
    has = [(folder / name).is_file() for name in SAVED]
    return has[1] or (has[0] and (folder / "state.json").is_file())


def source_for(path: str) -> str:
    """Return the name of the source that reads what is at a path, or "" where nothing shows it."""
    folder = Path(path)
    if folder.is_dir() and is_saved(folder):
        return "datasets"
    files = files_under(folder) if folder.is_dir() else matching(path)
    seen = {each.suffix.lower() for each in itertools.islice(files, MOST_LOOKED_AT)}
    if TAR in seen:
        return "webdataset"
    if seen & {".parquet", ".arrow"}:
        return "datasets"
    if seen & SUFFIXES:
        return "folder"
    return "datasets" if seen & set(TABLES) else ""


def other_source(path: str, own: str) -> str:
    """Return advice to use another source than `own` for what is at a path, or ""."""
    name = source_for(path)
    if name in ("", own):
        return ""
    what = {
        "webdataset": "it holds tars",
        "datasets": "it holds parquet, Arrow or other tables",
        "folder": "it holds image files",
    }[name]
    return f"{what}: set data.source={name}"
