"""A scene as an image: flat colours on white, anti-aliased by drawing large and averaging."""

import numpy as np
from PIL import Image, ImageDraw

from dalle_base.common.errors import UserError
from dalle_base.data.shapes.scenes import Scene

# None is a mixture of another with white, or a blurred edge would pass for it: so no grey and no
# pink. All have a channel near 0, which makes the least channel a measure of ink for every colour.
PALETTE = {
    "red": (220, 35, 35),
    "orange": (250, 130, 10),
    "yellow": (245, 220, 20),
    "green": (25, 155, 60),
    "cyan": (25, 195, 220),
    "blue": (35, 70, 220),
    "purple": (145, 45, 185),
    "black": (25, 25, 25),
}
BACKGROUND = (255, 255, 255)
SUPERSAMPLING = 4


def _regular(points: int, inner: float = 1.0) -> np.ndarray:
    """A polygon with its first corner on top; every other corner is drawn in to `inner`."""
    angle = 2 * np.pi * np.arange(points) / points
    radius = np.where(np.arange(points) % 2 == 0, 1.0, inner)
    return np.stack([radius * np.sin(angle), -radius * np.cos(angle)], axis=1)


def _cross(arm: float = 0.36) -> np.ndarray:
    """A plus sign; `arm` is the thickness of its bars over its width."""
    quarter = np.array([[-arm, -1], [arm, -1], [arm, -arm]])
    turn = np.array([[0, 1], [-1, 0]])  # a quarter turn, clockwise as y points down
    return np.concatenate([quarter @ np.linalg.matrix_power(turn, k) for k in range(4)])


def _heart() -> np.ndarray:
    t = np.linspace(0, 2 * np.pi, 60, endpoint=False)
    y = 13 * np.cos(t) - 5 * np.cos(2 * t) - 2 * np.cos(3 * t) - np.cos(4 * t)
    return np.stack([16 * np.sin(t) ** 3, -y], axis=1)


def _boxed(outline: np.ndarray) -> np.ndarray:
    """Centre an outline's bounding box on (0, 0) and scale its longer side to 1."""
    low, high = outline.min(axis=0), outline.max(axis=0)
    return (outline - (low + high) / 2) / (high - low).max()


# Corners (corners, 2) as (x, y) within a box of side 1 around the origin.
OUTLINES = {
    "circle": _boxed(_regular(60)),
    "square": _boxed(np.array([[0, 0], [1, 0], [1, 1], [0, 1]])),
    "triangle": _boxed(_regular(3)),
    "star": _boxed(_regular(10, inner=0.45)),
    "cross": _boxed(_cross()),
    "heart": _boxed(_heart()),
}


def render(scene: Scene, size: int = 64) -> Image.Image:
    """Return the scene as a square RGB image.

    Args:
        scene: what is drawn.
        size: pixels a side, at least 16.

    Raises:
        UserError: too few pixels.
    """
    if size < 16:
        raise UserError(f"images must be at least 16 pixels a side, not {size}")
    side = size * SUPERSAMPLING
    canvas = Image.new("RGB", (side, side), BACKGROUND)
    draw = ImageDraw.Draw(canvas)
    for thing in scene.objects:
        corners = (OUTLINES[thing.shape] * thing.width + (thing.x, thing.y)) * side
        draw.polygon(corners.ravel().tolist(), fill=PALETTE[thing.colour])
    return canvas.reduce(SUPERSAMPLING)
