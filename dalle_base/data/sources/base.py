"""What a source is: random access to captioned images, not yet decoded."""

from __future__ import annotations

import hashlib
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Sequence
from itertools import accumulate
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from dalle_base.common.errors import UserError
from dalle_base.common.report import say
from dalle_base.data.config import PathConfig

if TYPE_CHECKING:
    from PIL import Image

FEW = 3
"""Held-out images of which each is tried: with more, one that cannot be read is no loss."""


class Record(NamedTuple):
    """One captioned image before decoding."""

    name: str
    """What an error message calls it: a path, or the dataset with its row."""
    image: Path | bytes | Image.Image | Callable[[], Image.Image]
    caption: str | None
    artist: str = ""
    keywords: tuple[str, ...] = ()
    mirrorable: bool = False
    """Whether the data says that a horizontal flip keeps image and caption true."""
    wordings: tuple[str, ...] = ()
    """Other captions that say the same, to train on."""
    other_captions: tuple[str, ...] = ()
    """Further captions of the image, beside `caption`: the data has several."""
    short_names: tuple[str, ...] = ()
    """What people may call it without its details, to train on."""

    @property
    def captions(self) -> tuple[str, ...]:
        """All captions of the image."""
        return () if self.caption is None else (self.caption, *self.other_captions)


class Source(Protocol):
    """Random access to records."""

    def __len__(self) -> int: ...

    def record(self, index: int) -> Record: ...

    def has_caption(self, index: int) -> bool: ...


def first_with_same_image(source: Source, index: int) -> int:
    """Return the first index whose record is that of `index`: a mixture repeats records.

    What is computed once for each image can be kept under it.
    """
    find = getattr(source, "first_with_same_image", None)
    return index if find is None else find(index)


class Subset:
    """Some of a source's records."""

    # `indices` rise, so that the first of several with one image can be found.
    def __init__(self, source: Source, indices: list[int]) -> None:
        self.source, self.indices = source, indices

    def __len__(self) -> int:
        return len(self.indices)

    def record(self, index: int) -> Record:
        return self.source.record(self.indices[index])

    def has_caption(self, index: int) -> bool:
        return self.source.has_caption(self.indices[index])

    def first_with_same_image(self, index: int) -> int:
        first = first_with_same_image(self.source, self.indices[index])
        at = bisect_left(self.indices, first, 0, index)
        return at if self.indices[at] == first else index


class Joined:
    """The records of several sources, one source after the other."""

    def __init__(self, sources: Sequence[Source]) -> None:
        self.sources = list(sources)
        self.ends = list(accumulate(map(len, self.sources)))

    def __len__(self) -> int:
        return self.ends[-1] if self.ends else 0

    def find(self, index: int) -> tuple[Source, int]:
        """Return the source that a record is in, and where."""
        part = bisect_right(self.ends, index)
        return self.sources[part], index - (self.ends[part - 1] if part else 0)

    def record(self, index: int) -> Record:
        source, at = self.find(index)
        return source.record(at)

    def has_caption(self, index: int) -> bool:
        source, at = self.find(index)
        return source.has_caption(at)


def open_paths(make: Callable[[str], Source], config: PathConfig) -> tuple[Source, Source]:
    """Return what is at data.path and data.held_out_path, or a share of the former set aside.

    Args:
        make: opens the source at a path.
        config: has both paths, and the share.
    """
    if not config.path:
        raise UserError("data.path is empty; name a folder, parquet files or a dataset")
    source = make(config.path)
    if config.held_out_path:
        return source, make(config.held_out_path)
    # By a hash of the position, so that the choice is spread evenly and never changes.
    held_out = [i for i in range(len(source)) if _unit_hash(i) < config.held_out_share]
    if config.held_out_share and not any_readable(source, held_out):
        # A tiny folder still has something to measure on.
        held_out = first_readable(source, range(len(source)))
    kept = sorted(set(range(len(source))) - set(held_out)) or held_out
    return Subset(source, kept), Subset(source, held_out or kept)


def any_readable(source: Source, indices: Sequence[int]) -> bool:
    """Return whether an image of some records can be read, as one of more than `FEW` surely can."""
    return len(indices) > FEW or bool(first_readable(source, indices, otherwise=()))


def first_readable(
    source: Source, indices: Sequence[int], otherwise: Sequence[int] | None = None
) -> list[int]:
    """Return the first index whose image can be read, else `otherwise` (the first of all)."""
    from dalle_base.common.opening import UnreadableImageError, open_image

    for index in indices:
        record = source.record(index)
        try:
            open_image(record.image, record.name)
        except UnreadableImageError:
            continue
        return [index]
    return list(indices[:1] if otherwise is None else otherwise)


def _unit_hash(index: int) -> float:
    digest = hashlib.blake2b(str(index).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") / 2**64


def how_to_caption(source: Any) -> str:
    """Return what to do where no record of a source has a caption."""
    while not hasattr(source, "how_to_caption"):
        parts = getattr(source, "sources", [])
        inner = parts[0] if parts else getattr(source, "source", None)
        if inner is None:
            return "add a metadata.csv with file_name and caption, or a .txt beside each image"
        source = inner
    return source.how_to_caption()


def captioned(source: Source) -> Source:
    """Return the records that have a caption; say how many have none. Raises if none has."""
    if hasattr(source, "with_captions"):  # a stream, of which nobody knows how long it is
        return source.with_captions()  # type: ignore[attr-defined]
    with_caption = [i for i in range(len(source)) if source.has_caption(i)]
    missing = len(source) - len(with_caption)
    if not with_caption:
        raise UserError(
            f"none of the {len(source)} images has a caption (first: {source.record(0).name}); "
            f"{how_to_caption(source)}"
        )
    if missing:
        say(f"left out {missing} of {len(source)} images without a caption")
    return Subset(source, with_caption) if missing else source
