"""What becomes of an icon: drawn as it is, in a named colour, or as a silhouette on a ground."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from corpora.emoji.images import icon_svg
from corpora.emoji.readers import icon_of
from corpora.icons.colours import COLOURS, FILLS, colour_and_ground, pick, tint, written
from corpora.icons.drawing import SIDE, draw, filled, on_white, thumbnail
from corpora.icons.reading import Icon
from corpora.icons.sets import COLOURED, ICON_PARK, ICON_PARK_BLUE, ICON_PARK_LIGHT_BLUE
from dalle_base.data.forms import indefinite

LEAST_INK = 0.25
"""A silhouette covers so much of the square: less is an outline, which shows little colour."""
MOST_FADED = 0.03
"""So much of the square at most is half transparent: a red thing with a pink half is hardly red."""
LEAST_DRAWN = 0.01
"""An icon in its own colours differs so much from white: less is blank, or white on white."""

LEAST_COLOURED = 0.08
"""So much of an icon's square has the named colour, where all lines are black."""


@dataclass
class Painted:
    """An icon's image, with the words for it."""

    icon: Icon
    caption: str
    drawn: np.ndarray
    """uint8: [64, 64, 3], or the mask [64, 64] of a silhouette, which is painted when asked."""
    thumbnail: np.ndarray
    """What near-duplicates are found by: of the icon before it was given a colour."""
    colour: str = ""
    ground: str = ""

    def pixels(self) -> np.ndarray:
        """The image, uint8 [64, 64, 3]."""
        if self.drawn.ndim == 3:
            return self.drawn
        return filled(self.drawn, COLOURS[self.colour], COLOURS[self.ground])


def paint(icon: Icon, collection: dict[str, Any]) -> Painted | None:
    """Draw an icon of a set, or return None for one that shows too little."""
    svg = icon_svg(icon_of(collection, icon.name), SIDE)
    if icon.set.part == COLOURED:
        image = on_white(draw(svg))
        if 1 - image.mean() / 255 < LEAST_DRAWN:
            return None
        return Painted(icon, icon.concept, image, thumbnail(image))
    if icon.set.part == ICON_PARK:
        return _recoloured(icon, svg)
    mask = draw(svg)[..., 3]
    if mask.mean() / 255 < LEAST_INK or faded_share(mask) > MOST_FADED:
        return None
    colour, ground = colour_and_ground(f"{icon.set.prefix}/{icon.name}")
    thing = indefinite(f"{colour} {icon.concept}")
    caption = f"{thing} icon on {indefinite(ground)} background"
    return Painted(icon, caption, mask, thumbnail(mask), colour, ground)


def faded_share(mask: np.ndarray) -> float:
    """The share of half transparent areas in a mask, uint8 [64, 64]; softened edges are none."""
    inner = mask[:-1, :-1]
    is_flat = (inner == mask[1:, :-1]) & (inner == mask[:-1, 1:])
    return float((is_flat & (inner > 16) & (inner < 232)).mean())


def _recoloured(icon: Icon, svg: str) -> Painted | None:
    """An icon of icon-park with its blue replaced; None for one that has next to no blue."""
    if ICON_PARK_BLUE not in svg.lower():
        return None
    colour = pick(f"{icon.set.prefix}/{icon.name}", FILLS)
    original = thumbnail(on_white(draw(svg)))
    for blue, new in (
        (ICON_PARK_BLUE, COLOURS[colour]),
        (ICON_PARK_LIGHT_BLUE, tint(COLOURS[colour])),
    ):
        svg = svg.replace(blue, written(new)).replace(blue.upper(), written(new))
    image = on_white(draw(svg))
    is_coloured = np.abs(image.astype(int) - COLOURS[colour]).max(axis=2) < 16
    if is_coloured.mean() < LEAST_COLOURED:
        return None
    return Painted(icon, f"{indefinite(f'{colour} {icon.concept}')} icon", image, original, colour)
