"""Pictures of pictures: labelled grids, and rows of originals above their reconstructions."""

import textwrap
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

GAP = 4


def grid(
    images: list[Image.Image],
    columns: int,
    labels: list[str] | None = None,
    title: str = "",
    scale: int = 1,
) -> Image.Image:
    """Return pictures of one size in rows of `columns`, each over its label, under a title."""
    font = ImageFont.load_default(11)
    width, height = (extent * scale for extent in images[0].size)
    label_height = 14 if labels else 0
    lines = textwrap.wrap(title, max(12, columns * (width + GAP) // 7)) if title else []
    top = 16 * len(lines)
    rows = -(-len(images) // columns)
    sheet = Image.new(
        "RGB",
        (GAP + columns * (width + GAP), GAP + top + rows * (height + label_height + GAP)),
        "white",
    )
    draw = ImageDraw.Draw(sheet)
    for number, line in enumerate(lines):
        draw.text((GAP, GAP + 16 * number), line, fill="black", font=ImageFont.load_default(12))
    for index, image in enumerate(images):
        row, column = divmod(index, columns)
        x = GAP + column * (width + GAP)
        y = GAP + top + row * (height + label_height + GAP)
        if scale > 1:
            image = image.resize((width, height), Image.Resampling.BICUBIC)
        sheet.paste(image, (x, y))
        if labels:
            draw.text((x, y + height), labels[index], fill="black", font=font)
    return sheet


def save_picture(image: Image.Image, path: Path) -> None:
    """Write a picture, making its folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path)
