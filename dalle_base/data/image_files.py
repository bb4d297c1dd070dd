"""Image files: which there are under a folder, and opening them a batch at a time."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from dalle_base.common.errors import UserError
from dalle_base.common.report import say, shown

if TYPE_CHECKING:
    from PIL import Image

SUFFIXES = {".png", ".jpg", ".jpeg", ".webp", ".gif", ".bmp"}


class Opened(NamedTuple):
    """A batch of images that could be read."""

    paths: list[Path]
    images: list[Image.Image]
    skipped: list[Path]
    """Files of this batch that could not be read."""


def images_under(folder: Path) -> list[Path]:
    """The image files under a folder, sorted. Raises `UserError` where there are none."""
    if not folder.is_dir():
        raise UserError(f"no folder {shown(folder)}: name one with images in it")
    found = sorted(p for p in folder.rglob("*") if p.suffix.lower() in SUFFIXES and p.is_file())
    if not found:
        kinds = ", ".join(sorted(SUFFIXES))
        raise UserError(f"no images under {shown(folder)} (looked for {kinds})")
    return found


def open_batches(
    paths: Sequence[Path], must_open: frozenset[Path] = frozenset(), batch_size: int = 64
) -> Iterator[Opened]:
    """Read images, a batch at a time, on white and in RGB.

    One that cannot be read is named and left out.

    Raises:
        UserError: one in `must_open` cannot be read.
    """
    from dalle_base.common.images import UnreadableImageError, open_image

    for first in range(0, len(paths), batch_size):
        batch = Opened([], [], [])
        for path in paths[first : first + batch_size]:
            try:
                image = open_image(path, shown(path))
            except UnreadableImageError as error:
                if path in must_open:
                    raise UserError(f"not a readable image: {error}") from None
                say(f"skipped an unreadable image: {error}", error=True)
                batch.skipped.append(path)
                continue
            batch.paths.append(path)
            batch.images.append(image)
        yield batch
