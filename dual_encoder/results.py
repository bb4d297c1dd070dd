"""How classifying and searching read pictures and show what they found."""

import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from PIL import Image
from tqdm import tqdm

from training.data import SUFFIXES
from training.errors import UserError
from training.grids import grid
from training.pictures import UnreadablePictureError, centre_square, open_picture

THUMBNAIL = 128
"""Side of a picture on a contact sheet, in pixels."""
PER_SHEET = 240
"""Pictures on one contact sheet; more go on further sheets."""


class Opened(NamedTuple):
    """A batch of pictures that could be read."""

    paths: list[Path]
    pictures: list[Image.Image]
    skipped: list[Path]
    """Files of this batch that could not be read."""


def pictures_under(folder: Path) -> list[Path]:
    """The picture files under a folder, sorted. Raises `UserError` where there are none."""
    if not folder.is_dir():
        raise UserError(f"no folder {shown(folder)}: name one with pictures in it")
    found = sorted(p for p in folder.rglob("*") if p.suffix.lower() in SUFFIXES and p.is_file())
    if not found:
        kinds = ", ".join(sorted(SUFFIXES))
        raise UserError(f"no pictures under {shown(folder)} (looked for {kinds})")
    return found


def open_batches(
    paths: Sequence[Path], must_open: frozenset[Path] = frozenset(), batch_size: int = 64
) -> Iterator[Opened]:
    """Read pictures, a batch at a time, on white and in RGB.

    One that cannot be read is named and left out, or raises `UserError` if it is in `must_open`.
    """
    for first in range(0, len(paths), batch_size):
        batch = Opened([], [], [])
        for path in paths[first : first + batch_size]:
            try:
                picture = open_picture(path, shown(path))
            except UnreadablePictureError as error:
                if path in must_open:
                    raise UserError(f"not a readable picture: {error}") from None
                tqdm.write(f"skipped an unreadable picture: {error}", file=sys.stderr)
                batch.skipped.append(path)
                continue
            batch.paths.append(path)
            batch.pictures.append(picture)
        yield batch


def shown(text: Path | str) -> str:
    """A path or caption for one line on the screen: what cannot be printed becomes `?`."""
    return "".join(c if c.isprintable() else "?" for c in str(text))


def table(rows: Sequence[Sequence[str]]) -> str:
    """Rows of texts as aligned columns; numbers are to be formatted to equal widths before."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ("  ".join(f"{t:<{w}}" for t, w in zip(row, widths, strict=True)) for row in rows)
    return "\n".join(line.rstrip() for line in lines)


def thumbnail(picture: Image.Image) -> Image.Image:
    """The centre square of a picture, which is what the model sees, for a contact sheet."""
    return centre_square(picture, THUMBNAIL, Image.Resampling.BICUBIC)


def prepare_output(json_file: Path | None, folder: Path | None) -> None:
    """Make the places to write to now, so that nothing is computed in vain. Raises `UserError`."""
    for place in (folder, json_file.parent if json_file else None):
        try:
            if place:
                place.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(
                f"cannot write into {place}: {error.strerror}; choose another"
            ) from None
    if json_file and json_file.is_dir():
        raise UserError(f"--json {json_file} is a folder: name a file")


def write_sheets(
    folder: Path, images: Sequence[Image.Image], labels: Sequence[str], title: str
) -> list[Path]:
    """Write thumbnails over their labels as sheet.png, or as sheet-1.png, ... where many."""
    starts = range(0, len(images), PER_SHEET)
    names = [f"sheet-{i + 1}.png" if len(starts) > 1 else "sheet.png" for i in range(len(starts))]
    most = THUMBNAIL // 6  # letters that fit under a picture
    short = [label if len(label) <= most else label[: most - 2] + ".." for label in labels]
    for first, name in zip(starts, names, strict=True):
        part = slice(first, first + PER_SHEET)
        columns = min(8, len(images[part]))
        grid(list(images[part]), columns, short[part], title).save(folder / name)
    return [folder / name for name in names]


def write_json(path: Path, record: Any) -> None:
    """Write a record as JSON."""
    path.write_text(json.dumps(record, indent=1), encoding="utf-8")
