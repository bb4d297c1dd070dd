"""What a source is: random access to captioned images, not yet decoded."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, Protocol

from dalle_base.common.errors import UserError
from dalle_base.common.report import say
from dalle_base.data.config import PathConfig

if TYPE_CHECKING:
    from PIL import Image


class Record(NamedTuple):
    """One captioned image before decoding."""

    name: str
    """What an error message calls it: a path, or the dataset with its row."""
    image: Path | bytes | Image.Image | Callable[[], Image.Image]
    caption: str | None
    artist: str = ""
    keywords: tuple[str, ...] = ()
    mirrorable: bool = True


class Source(Protocol):
    """Random access to records."""

    def __len__(self) -> int: ...

    def record(self, index: int) -> Record: ...

    def has_caption(self, index: int) -> bool: ...


class Subset:
    """Some of a source's records."""

    def __init__(self, source: Source, indices: list[int]) -> None:
        self.source, self.indices = source, indices

    def __len__(self) -> int:
        return len(self.indices)

    def record(self, index: int) -> Record:
        return self.source.record(self.indices[index])

    def has_caption(self, index: int) -> bool:
        return self.source.has_caption(self.indices[index])


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
    if config.held_out_share and not held_out:
        held_out = [0]  # a tiny folder still has something to measure on
    kept = sorted(set(range(len(source))) - set(held_out)) or held_out
    return Subset(source, kept), Subset(source, held_out or kept)


def _unit_hash(index: int) -> float:
    digest = hashlib.blake2b(str(index).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") / 2**64


def captioned(source: Source) -> Source:
    """Return the records that have a caption; say how many have none. Raises if none has."""
    with_caption = [i for i in range(len(source)) if source.has_caption(i)]
    missing = len(source) - len(with_caption)
    if not with_caption:
        raise UserError(
            f"none of the {len(source)} images has a caption (first: {source.record(0).name}); "
            "add a metadata.csv with file_name and caption, or a .txt beside each image"
        )
    if missing:
        say(f"left out {missing} of {len(source)} images without a caption")
    return Subset(source, with_caption) if missing else source
