"""Which images have one colour, what it is called, and the same image in another."""

from typing import NamedTuple

import numpy as np
from matplotlib.colors import hsv_to_rgb, rgb_to_hsv
from PIL import Image

from corpora.icons.colours import COLOURS

TARGETS = ("red", "orange", "yellow", "green", "blue", "purple", "pink")
"""Colours that differ by hue, which is all that is changed much."""
LEAST_SATURATION, LEAST_VALUE = 0.25, 0.2
"""A pixel with less is grey, or black, and stays so."""
LEAST_COLOURED, LEAST_ALIKE = 0.45, 0.9
"""So much of an image's area has a colour, and so much of that the same."""
NEAR, FAR = 35.0, 55.0
"""Degrees around the hue that are the colour, and beyond which nothing is changed."""
NAMED = 15.0
"""Degrees within which a hue has a colour's name."""
LEAST_NAMED, BROWN = 0.45, 0.6
"""Saturation and brightness below which a colour has no name; an orange that is darker is brown."""
MOST_SCALED = 1.4
"""Factor by which saturation and brightness follow a colour at most: shading is to survive."""


class OneColour(NamedTuple):
    """The colour that an image has."""

    hue: float
    """Degrees."""
    saturation: float
    value: float

    def name(self) -> str:
        """Its name; "" for what has none of TARGETS, as brown and pale skin have not."""
        is_warm = apart(self.hue, hsv_of("orange")[0]) < NEAR
        if self.saturation < LEAST_NAMED or self.value < (BROWN if is_warm else LEAST_NAMED):
            return ""
        near = [name for name in TARGETS if apart(self.hue, hsv_of(name)[0]) < NAMED]
        return near[0] if len(near) == 1 else ""


def colour_of(image: Image.Image) -> OneColour | None:
    """Return an RGBA image's colour, or None where it has several, or hardly any."""
    pixels = np.asarray(image.convert("RGBA"), dtype=np.float64) / 255
    hsv = rgb_to_hsv(pixels[..., :3])
    drawn = pixels[..., 3] > 0.5
    coloured = drawn & (hsv[..., 1] > LEAST_SATURATION) & (hsv[..., 2] > LEAST_VALUE)
    if not drawn.any() or coloured.sum() < LEAST_COLOURED * drawn.sum():
        return None
    hue, saturation, value = hsv[coloured].T
    weight = saturation * value
    mean = (weight * np.exp(2j * np.pi * hue)).sum()
    degrees = float(np.degrees(np.angle(mean)) % 360)
    alike = weight[apart(360 * hue, degrees) < NEAR].sum() / weight.sum()
    if alike < LEAST_ALIKE:
        return None
    return OneColour(degrees, float(np.median(saturation)), float(np.median(value)))


def recoloured(image: Image.Image, own: OneColour, target: str) -> Image.Image:
    """Return an RGBA image with its colour turned into a named one; what has other hues stays."""
    pixels = np.asarray(image.convert("RGBA"), dtype=np.float64) / 255
    hsv = rgb_to_hsv(pixels[..., :3])
    hue, saturation, value = hsv_of(target)
    share = np.clip((FAR - apart(360 * hsv[..., 0], own.hue)) / (FAR - NEAR), 0, 1)
    turned = hsv.copy()
    turned[..., 0] = (hsv[..., 0] + (hue - own.hue) / 360) % 1
    for channel, wanted, had in ((1, saturation, own.saturation), (2, value, own.value)):
        scale = np.clip(wanted / had, 1 / MOST_SCALED, MOST_SCALED)
        # What is grey or white has no colour to follow, whatever its hue is said to be.
        follow = 1 + (scale - 1) * np.clip(hsv[..., 1] / LEAST_SATURATION, 0, 1)
        turned[..., channel] = np.clip(hsv[..., channel] * follow, 0, 1)
    mixed = share[..., None] * hsv_to_rgb(turned) + (1 - share[..., None]) * pixels[..., :3]
    whole = np.concatenate([mixed, pixels[..., 3:]], axis=2)
    return Image.fromarray((whole * 255).round().astype(np.uint8))


def apart(hue: np.ndarray | float, other: float) -> np.ndarray:
    """Return how far hues are from another, in degrees up to 180."""
    return np.abs((np.asarray(hue) - other + 180) % 360 - 180)


def hsv_of(name: str) -> tuple[float, float, float]:
    """Return hue in degrees, saturation and value of a named colour."""
    hue, saturation, value = rgb_to_hsv(np.array(COLOURS[name]) / 255)
    return float(360 * hue), float(saturation), float(value)
