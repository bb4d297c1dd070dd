"""Contact sheets: many images of any size as thumbnails over their labels."""

from collections.abc import Sequence
from pathlib import Path

from PIL import Image

from dalle_base.common.images import centre_square, grid, save_image

THUMBNAIL = 128
"""Side of an image on a contact sheet, in pixels."""
PER_SHEET = 240
"""Images on one contact sheet; more go on further sheets."""


def thumbnail(image: Image.Image) -> Image.Image:
    """The centre square of an image, which is what the model sees, for a contact sheet."""
    return centre_square(image, THUMBNAIL, Image.Resampling.BICUBIC)


def write_sheets(
    folder: Path, images: Sequence[Image.Image], labels: Sequence[str], title: str
) -> list[Path]:
    """Write thumbnails over their labels as sheet.png, or as sheet-1.png, ... where many."""
    starts = range(0, len(images), PER_SHEET)
    names = [f"sheet-{i + 1}.png" if len(starts) > 1 else "sheet.png" for i in range(len(starts))]
    most = THUMBNAIL // 6  # letters that fit under an image
    short = [label if len(label) <= most else label[: most - 2] + ".." for label in labels]
    for first, name in zip(starts, names, strict=True):
        part = slice(first, first + PER_SHEET)
        columns = min(8, len(images[part]))
        save_image(grid(list(images[part]), columns, short[part], title), folder / name)
    return [folder / name for name in names]
