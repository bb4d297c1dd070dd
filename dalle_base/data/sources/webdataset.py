"""WebDataset tars: the files of a sample share a name up to its first dot."""

from __future__ import annotations

import contextlib
import itertools
import json
import tarfile
from array import array
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from dalle_base.common.errors import UserError
from dalle_base.common.report import say, shown
from dalle_base.data.caption_values import captions_in, mended
from dalle_base.data.config import PathConfig
from dalle_base.data.image_files import SUFFIXES
from dalle_base.data.sources.at_path import TAR, files_under, matching, other_source
from dalle_base.data.sources.base import Record, Source, open_paths
from dalle_base.data.text_files import decode, lines_of

CAPTIONS = ("txt", "caption", "text", "json")
"""Extensions of captions, the first that a sample has counts."""
MOST_SEEN = 100
"""Samples whose columns a message tells."""
MOST_TEXT = 2**20
"""Bytes: no caption is longer."""
PACKED = {b"\x1f\x8b": "gzip", b"BZh": "bzip2", b"\xfd7zXZ": "xz", b"\x28\xb5\x2f\xfd": "zstd"}


@dataclass
class WebDatasetConfig(PathConfig):
    """WebDataset tars: one .tar, a folder of them or a glob, with captions in .txt or .json."""

    image_column: str = ""
    """Extension of the image, where a sample has several (seg.png, say); empty: the plain one."""
    caption_column: str = ""
    """Extension of the caption, or its field in the .json; empty: .txt, .caption, .text, then the
    caption, text, prompt or the like in the .json."""

    def open(self) -> tuple[Source, Source]:
        """Return the training and the held-out source."""
        return open_paths(partial(WebDatasetSource, self), self)


class Member(NamedTuple):
    """A file in a tar."""

    offset: int
    size: int


class Sample(NamedTuple):
    """The files of a sample that are needed: its image, and its captions, read already."""

    name: str
    image: Member
    captions: tuple[str, ...]


class WebDatasetSource:
    """Random access to the samples of plain tars, by an index of where their images lie."""

    def __init__(self, config: WebDatasetConfig, path: str) -> None:
        self.path, self.config = path, config
        self.tars = tars_at(path)
        self.names: list[str] = []
        self.texts: list[tuple[str, ...]] = []
        # Of millions of samples, numbers in an array take a fraction of the room of tuples.
        self.tar, self.offset, self.size = array("l"), array("q"), array("q")
        for number, tar in enumerate(self.tars):
            for sample in samples_of(tar, config.image_column, config.caption_column):
                self.names.append(sample.name)
                self.texts.append(sample.captions)
                self.tar.append(number)
                self.offset.append(sample.image.offset)
                self.size.append(sample.image.size)
        if not self.names:
            what = f".{config.image_column} files" if config.image_column else "images"
            raise UserError(f"no {what} in the tars of {path!r}; set data.path")

    def __len__(self) -> int:
        return len(self.names)

    def record(self, index: int) -> Record:
        tar = self.tars[self.tar[index]]
        with tar.open("rb") as file:
            file.seek(self.offset[index])
            content = file.read(self.size[index])
        texts = self.texts[index]
        name = f"{tar}:{self.names[index]}"
        return Record(name, content, texts[0] if texts else None, other_captions=texts[1:])

    def has_caption(self, index: int) -> bool:
        return bool(self.texts[index])

    def how_to_caption(self) -> str:
        """Return what to do where no sample has a caption."""
        return caption_advice(self.tars[0], self.config.caption_column)


def caption_advice(tar: Path, column: str) -> str:
    """Return what to do where no sample of tars like this one has a caption."""
    seen: set[str] = set()
    fields: set[str] = set()
    with tar.open("rb") as file:
        for _, members in itertools.islice(_groups(tar), MOST_SEEN):
            seen |= set(members)
            if "json" in members:
                with contextlib.suppress(ValueError, RecursionError):
                    loaded = _json(file, members["json"])
                    fields |= set(loaded) if isinstance(loaded, dict) else set()
    known = ", ".join(sorted(seen)) + (f"; .json has {', '.join(sorted(fields))}" if fields else "")
    wanted = f"no {column!r} in the tars" if column else "captions are in .txt or .json"
    return f"{wanted}, columns are {known}: set data.caption_column=..."


def tars_at(path: str) -> list[Path]:
    """Return the tars that a path names, sorted. Raises `UserError`: none, or compressed ones."""
    folder = Path(path)
    found = list(files_under(folder)) if folder.is_dir() else matching(path)
    tars = [each for each in found if each.suffix.lower() == TAR]
    if not tars:
        hint = other_source(path, "webdataset") or "set data.path to a .tar, a folder or a glob"
        packed = next((each for each in found if _packing(each)), None)
        if packed:
            hint = f"unpack {packed.name} ({_packing(packed)}) to a .tar first"
        raise UserError(f"no .tar at {path!r}; {hint}")
    for tar in tars:
        if _packing(tar):
            raise UserError(
                f"{tar} is compressed ({_packing(tar)}): unpack it to a plain .tar first"
            )
    return tars


def _packing(path: Path) -> str:
    with path.open("rb") as file:
        start = file.read(6)
    return next((name for magic, name in PACKED.items() if start.startswith(magic)), "")


def samples_of(tar: Path, image_column: str = "", caption_column: str = "") -> Iterator[Sample]:
    """Yield the samples of a tar that have an image.

    Args:
        tar: a plain one; of one that was cut short, what is whole.
        image_column: extension of the image; empty: the first that is an image's, plain ones first.
        caption_column: extension or field of the caption; empty: the usual ones.
    """
    unread: list[str] = []
    with tar.open("rb") as file:
        for key, members in _groups(tar):
            named = members.get(image_column.lower().lstrip("."))
            image = named if image_column else _image(members)
            if image is None:
                continue
            try:
                captions = _captions(file, members, caption_column.lstrip("."))
            except (ValueError, RecursionError):
                unread.append(key)
                captions = []
            yield Sample(key, image, tuple(captions))
    if unread:
        what = "caption that cannot be read" if len(unread) == 1 else "captions that cannot be read"
        say(f"{shown(tar)} has {len(unread)} {what}, the first: {shown(unread[0])}")


def rows_of(tars: list[str], image: str, caption: str) -> Iterator[dict[str, Any]]:
    """Yield samples with their images as rows: what a stream is made of."""
    for tar in map(Path, tars):
        with tar.open("rb") as file:
            for sample in samples_of(tar, image, caption):
                file.seek(sample.image.offset)
                content = file.read(sample.image.size)
                yield {"image": content, "name": sample.name, "captions": list(sample.captions)}


def _groups(tar: Path) -> Iterator[tuple[str, dict[str, Member]]]:
    """Yield the names of a tar's samples with their members by extension."""
    groups: dict[str, dict[str, Member]] = {}
    total = tar.stat().st_size
    try:
        # Headers only: what a tar holds is never written anywhere.
        with tarfile.open(tar, "r:") as file:
            while (info := file.next()) is not None:
                # A list of all of them is not needed.
                file.members.clear()  # type: ignore[attr-defined]
                folder, _, name = info.name.rpartition("/")
                base, _, extension = name.partition(".")
                hidden = not base or base == "__MACOSX" or "/." in f"/{folder}"
                if not info.isreg() or hidden or not extension:
                    continue
                if info.offset_data + info.size > total:
                    raise tarfile.ReadError("unexpected end of data")
                key = f"{folder}/{base}" if folder else base
                member = Member(info.offset_data, info.size)
                groups.setdefault(key, {}).setdefault(extension.lower(), member)
    except (tarfile.TarError, EOFError, OSError) as error:
        if not groups:
            raise UserError(f"{tar} is no tar that can be read: {error}") from None
        say(f"{shown(tar)} is damaged or cut short ({error}): {len(groups)} samples of it are read")
    yield from groups.items()


def _image(members: dict[str, Member]) -> Member | None:
    images = [e for e in members if f".{e.rpartition('.')[2]}" in SUFFIXES]
    # "jpg" before "seg.png": what has two extensions is mostly something about the image.
    return members[min(images, key=lambda each: each.count("."))] if images else None


def _captions(file: BinaryIO, members: dict[str, Member], column: str) -> list[str]:
    """The captions of a sample. Raises `ValueError` or `RecursionError`: they cannot be read."""
    for extension in [column.lower()] if column else CAPTIONS:
        if extension in members and extension != "json":
            lines = lines_of(_text(file, members[extension]))
            return list(dict.fromkeys(filter(None, map(mended, lines))))
        if extension in members:
            return captions_in(_json(file, members[extension]))
    loaded = _json(file, members["json"]) if "json" in members else None
    return captions_in(loaded.get(column)) if isinstance(loaded, dict) else []


def _text(file: BinaryIO, member: Member) -> str:
    file.seek(member.offset)
    found = decode(file.read(min(member.size, MOST_TEXT)))
    if found is None:
        raise ValueError("no text")
    return found.text


def _json(file: BinaryIO, member: Member) -> Any:
    return json.loads(_text(file, member))
