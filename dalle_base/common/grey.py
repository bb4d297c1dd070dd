"""Images of more than 8 bits a pixel, brought to 8 bits without clipping."""

import numpy as np
from PIL import Image

DEEP = ("I", "F", "I;16", "I;16B", "I;16L", "I;16N")
"""Pillow's modes for one channel of 16-bit or 32-bit integers, or of floats."""
UNSIGNED = 1
SAMPLE_FORMAT, BITS_PER_SAMPLE = 339, 258
"""TIFF tags."""
OVERSHOOT = 1.05
"""Resampling leaves values that are a little above white."""


def to_8_bits(image: Image.Image) -> Image.Image:
    """Return an image of one of the modes `DEEP` as 8-bit grey, its transparent pixels white.

    16-bit values fill their range, 0 to 65535. Of 32-bit integers and floats the file does not say
    what is white: it is the smallest of 1 (floats only), 255 and 65535 that no value exceeds,
    else the largest value. With negative values, black is -1 where none is beyond -1 and 1, else
    the smallest value. What is not finite is black.
    """
    values = np.asarray(image)
    if image.mode == "I" and _is_unsigned(image):
        values = values.view(np.uint32)
    transparent = image.info.get("transparency")
    hidden = values == transparent if isinstance(transparent, int) else None
    black, white = _range(values, image.mode)
    scaled = np.subtract(values, black, dtype=np.float32)
    scaled *= 255 / (white - black)
    np.nan_to_num(scaled, copy=False, nan=0, posinf=0, neginf=0)
    grey = np.clip(scaled, 0, 255, out=scaled).round().astype(np.uint8)
    if hidden is not None:
        grey[hidden] = 255
    return Image.fromarray(grey)


def _is_unsigned(image: Image.Image) -> bool:
    tags = getattr(image, "tag_v2", {})
    return tags.get(BITS_PER_SAMPLE) == (32,) and tags.get(SAMPLE_FORMAT, (UNSIGNED,)) == (
        UNSIGNED,
    )


def _range(values: np.ndarray, mode: str) -> tuple[float, float]:
    """Return the values that are black and white: finite, and different."""
    if mode.startswith("I;16"):
        return 0, 65535
    finite = values[np.isfinite(values)] if mode == "F" else values
    if not finite.size:
        return 0, 1
    least, most = float(finite.min()), float(finite.max())
    if least >= 0:
        scales = (1, 255, 65535) if mode == "F" else (255, 65535)
        return 0, next((scale for scale in scales if most <= scale * OVERSHOOT), most)
    if mode == "F" and least >= -OVERSHOOT and most <= OVERSHOOT:
        return -1, 1
    return (least, most) if most > least else (least, least + 1)
