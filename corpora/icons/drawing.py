"""Icons drawn at 64x64: with their own colours on white, or as masks that any colour can fill."""

import io

import numpy as np
from PIL import Image

from corpora.emoji.images import render

SIDE = 64
THUMB = 16
"""Side of the small images by which near-duplicates are found."""


def draw(svg: str) -> np.ndarray:
    """An SVG drawn, uint8 [64, 64, 4]: red, green, blue and opacity."""
    with Image.open(io.BytesIO(render(svg))) as image:
        return np.asarray(image.convert("RGBA"))


def on_white(drawn: np.ndarray) -> np.ndarray:
    """Flatten uint8 [64, 64, 4] on white: uint8 [64, 64, 3]."""
    return filled(drawn[..., 3], drawn[..., :3], (255, 255, 255))


def filled(
    mask: np.ndarray, colour: np.ndarray | tuple[int, ...], ground: tuple[int, ...]
) -> np.ndarray:
    """A colour (or an image) through a mask, uint8 [64, 64], on a ground: uint8 [64, 64, 3]."""
    opacity = mask[..., None].astype(np.float32) / 255
    mixed = np.asarray(colour) * opacity + np.asarray(ground) * (1 - opacity)
    return mixed.round().astype(np.uint8)


def thumbnail(image: np.ndarray) -> np.ndarray:
    """Shrink uint8 [64, 64] or [64, 64, C] and flatten it: float32 [256 C] in [0, 1]."""
    scale = SIDE // THUMB
    blocks = image.reshape(THUMB, scale, THUMB, scale, -1)
    return (blocks.mean(axis=(1, 3), dtype=np.float32) / 255).ravel()


def png(image: np.ndarray) -> bytes:
    """A PNG of uint8 [64, 64, 3]."""
    content = io.BytesIO()
    Image.fromarray(image).save(content, "PNG")
    return content.getvalue()


def decoded(content: bytes) -> np.ndarray:
    """A PNG of any size on white, uint8 [64, 64, 3]."""
    with Image.open(io.BytesIO(content)) as image:
        small = image.convert("RGBA").resize((SIDE, SIDE), Image.Resampling.BOX)
    return on_white(np.asarray(small))
