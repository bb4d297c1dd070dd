"""Named colours, and which of them can be told apart when one is drawn on another."""

from collections.abc import Sequence

from corpora.emoji.splits import fraction

COLOURS: dict[str, tuple[int, int, int]] = {
    "red": (220, 38, 38),
    "orange": (245, 130, 32),
    "yellow": (250, 208, 40),
    "green": (30, 150, 60),
    "cyan": (40, 196, 214),
    "blue": (37, 90, 225),
    "purple": (130, 60, 190),
    "pink": (244, 114, 182),
    "brown": (125, 75, 40),
    "grey": (128, 132, 138),
    "black": (17, 17, 17),
    "white": (255, 255, 255),
}
FILLS = tuple(name for name in COLOURS if name not in ("black", "white"))
"""Colours that show inside a black outline on white."""

WHITE = "white"
WHITE_SHARE = 0.4
"""So many silhouettes stand on white, which is where all other images stand."""
FAR, LEAST_DISTANCE = 150.0, 104.0
"""Distances of red, green and blue: enough by itself, and enough with a contrast."""
LEAST_CONTRAST = 1.45


def contrast(one: str, other: str) -> float:
    """The contrast of two named colours as WCAG 2 has it, 1 to 21."""
    darker, lighter = sorted(map(_luminance, (COLOURS[one], COLOURS[other])))
    return (lighter + 0.05) / (darker + 0.05)


def shows_on(colour: str, ground: str) -> bool:
    """Whether a colour can be told from a ground: far from it, or else lighter or darker."""
    pairs = zip(COLOURS[colour], COLOURS[ground], strict=True)
    distance = sum((a - b) ** 2 for a, b in pairs) ** 0.5
    lighter = contrast(colour, ground) >= LEAST_CONTRAST
    return distance >= FAR or (distance >= LEAST_DISTANCE and lighter)


def colour_and_ground(name: str) -> tuple[str, str]:
    """The colours of a silhouette, by a stable hash of its name."""
    on_white = fraction(f"{name}/on white") < WHITE_SHARE
    ground = WHITE if on_white else pick(f"{name}/ground", [c for c in COLOURS if c != WHITE])
    return pick(f"{name}/colour", [c for c in COLOURS if shows_on(c, ground)]), ground


def pick(name: str, among: Sequence[str]) -> str:
    """One of some texts, by a stable hash of a name."""
    return among[int(fraction(name) * len(among))]


def tint(colour: tuple[int, int, int], share: float = 0.55) -> tuple[int, int, int]:
    """A colour mixed with so much white."""
    red, green, blue = (round(value + (255 - value) * share) for value in colour)
    return red, green, blue


def written(colour: tuple[int, int, int]) -> str:
    """A colour as SVG writes it."""
    return "#{:02x}{:02x}{:02x}".format(*colour)


def _luminance(colour: tuple[int, int, int]) -> float:
    linear = [
        value / 12.92 if value <= 0.04045 else ((value + 0.055) / 1.055) ** 2.4
        for value in (channel / 255 for channel in colour)
    ]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
