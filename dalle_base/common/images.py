"""Images: squared, turned into tensors and back, laid out in grids. `opening` opens them."""

import textwrap
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from dalle_base.common.files import write_file
from dalle_base.common.opening import WHITE
from dalle_base.common.opening import UnreadableImageError as UnreadableImageError
from dalle_base.common.opening import open_image as open_image

GAP = 4
"""Pixels between the images of a grid."""
FRAME = (190, 190, 190)
"""Colour of the line around each image of a grid: a white image then has an edge."""


def centre_square(
    image: Image.Image, size: int, resampling: Image.Resampling = Image.Resampling.LANCZOS
) -> Image.Image:
    """Resize the short side to `size` pixels and crop the centre: what evaluation sees."""
    side = min(image.size)
    left, top = (image.width - side) / 2, (image.height - side) / 2
    box = (left, top, left + side, top + side)
    return image.resize((size, size), resampling, box=box)


def to_array(image: Image.Image) -> np.ndarray:
    """Return an RGB image as uint8 [3, H, W]."""
    return np.asarray(image, dtype=np.uint8).transpose(2, 0, 1)


def to_tensor(arrays: list[np.ndarray]) -> Tensor:
    """Stack uint8 [3, H, W] arrays to float [B, 3, H, W] in [0, 1], channels last."""
    images = torch.from_numpy(np.stack(arrays)).float().div_(255)
    return images.contiguous(memory_format=torch.channels_last)


def to_image(pixels: Tensor) -> Image.Image:
    """Return pixels [3, H, W] in [0, 1] as a Pillow image."""
    array = pixels.clamp(0, 1).mul(255).round().to(torch.uint8).permute(1, 2, 0).cpu().numpy()
    return Image.fromarray(np.ascontiguousarray(array))


def grid(
    images: list[Image.Image],
    columns: int,
    labels: list[str] | None = None,
    title: str = "",
    scale: int = 1,
) -> Image.Image:
    """Lay out images of one size in rows, each framed and over its label, under a title.

    Args:
        images: at least one, all of one size.
        columns: images in a row.
        labels: one for each image, on one line below it.
        title: wrapped over the grid's width.
        scale: factor on the images' sides.
    """
    font = ImageFont.load_default(11)
    width, height = (extent * scale for extent in images[0].size)
    label_height = 14 if labels else 0
    lines = textwrap.wrap(title, max(12, columns * (width + GAP) // 7)) if title else []
    top = 16 * len(lines)
    rows = -(-len(images) // columns)
    sheet = Image.new(
        "RGB",
        (GAP + columns * (width + GAP), GAP + top + rows * (height + label_height + GAP)),
        WHITE,
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
        draw.rectangle((x - 1, y - 1, x + width, y + height), outline=FRAME)
        sheet.paste(image, (x, y))
        if labels:
            draw.text((x, y + height), labels[index], fill="black", font=font)
    return sheet


def save_image(image: Image.Image, path: Path) -> None:
    """Write a PNG, whole or not at all, making its folder. Raises `UserError`."""
    write_file(path, lambda new: image.save(new, format="PNG"), sync=False)
