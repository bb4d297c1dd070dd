"""What a run will see of images."""

from collections.abc import Iterator
from typing import Any

import numpy as np
from PIL import Image

from dalle_base.common.errors import UserError
from dalle_base.common.images import UnreadableImageError, centre_square, grid, open_image
from dalle_base.common.report import shown
from dalle_base.data.augment import augment
from dalle_base.data.caption_lengths import spread
from dalle_base.data.inspect.reading import UNKNOWN_SIZE, Reading
from dalle_base.data.passed_over import sources_within
from dalle_base.data.sources.base import Record, Source

COLUMNS = 8
"""Looks of an image on the sheet: as it is, then augmented."""
SIDE = 96
"""Images on the sheet are enlarged to at least this side, in pixels."""
NAMED = 3
"""Files that a line names."""
LONG_SIDE = 2.0
"""Times the short side from which on much of an image is cut off."""


def image_report(train: Source, held_out: Source, reading: Reading, most: int) -> Iterator[str]:
    """Yield lines on the images: how many, what was passed over, what cannot be opened, sizes.

    At most `most` are opened, evenly spread.
    """
    records, total = spread(train, most)
    held, held_total = spread(held_out, most)
    counts = f"{total or 'unknown'} to train on, {held_total or len(held)} held out"
    yield f"images: {counts} ({type(reading.data).__name__.removesuffix('Config').lower()})"
    for reason in passed_over(train):
        yield f"passed over: {reason}"
    sizes, unreadable = [], []
    for record in [*records, *held]:
        try:
            sizes.append(open_image(record.image, record.name).size)
        except UnreadableImageError as error:
            unreadable.append(shown(str(error)))
    opened = len(records) + len(held)
    yield f"opened: {opened} images, of which {len(unreadable)} cannot be read"
    for reason in unreadable[:NAMED]:
        yield f"  {reason}"
    if not sizes:
        raise UserError(f"none of the {opened} images opened can be read (see the lines above)")
    yield from _sizes(sizes, reading.image_size)


def _sizes(sizes: list[tuple[int, int]], side: int) -> Iterator[str]:
    short = sorted(min(size) for size in sizes)
    middle = short[len(short) // 2]
    line = f"short sides: {short[0]} to {short[-1]} pixels, median {middle}"
    if side:
        small = sum(value < side for value in short)
        line += f"; training sees {side}, which {small} of {len(short)} have to be enlarged to"
    yield line
    long = sum(max(size) >= LONG_SIDE * min(size) for size in sizes)
    if long:
        times = f"{LONG_SIDE:g} or more times as long as wide"
        yield f"{long} of {len(sizes)} are {times}: their ends are cut off"


def passed_over(source: Any) -> list[str]:
    """Return what a source, or the sources within it, report as passed over."""
    reports = (getattr(at, "passed_over", None) for at in sources_within(source))
    return [str(report) for report in reports if report]


def contact_sheet(train: Source, reading: Reading, images: int) -> Image.Image:
    """Return a grid of so many images: in each row one as it is, then augmented, over its caption.

    Those that cannot be read are left out. Raises `UserError` if none can.
    """
    size = reading.image_size or UNKNOWN_SIZE
    records, _ = spread(train, images)
    cells: list[Image.Image] = []
    labels: list[str] = []
    for number, record in enumerate(records):
        try:
            image = open_image(record.image, record.name)
        except UnreadableImageError:
            continue
        cells += [centre_square(image, size), *_looks(image, size, record, reading, number)]
        labels += [shown(record.caption or record.name)[:16], *[""] * (COLUMNS - 1)]
    if not cells:
        raise UserError(f"none of the {len(records)} images for the sheet can be read")
    if reading.image_size:
        title = f"{size}x{size} pixels: on the left the image as it is, then augmented"
    else:
        title = f"the tokenizer is not there yet: shown with {size}x{size} pixels"
    return grid(cells, COLUMNS, labels, title, scale=max(1, -(-SIDE // size)))


def _looks(
    image: Image.Image, size: int, record: Record, reading: Reading, number: int
) -> list[Image.Image]:
    options = reading.data.augment
    rngs = [np.random.default_rng((number, look)) for look in range(1, COLUMNS)]
    return [augment(image, size, options, rng, record.mirrorable) for rng in rngs]
