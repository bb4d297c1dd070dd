"""Grids of images: where each image and its frame are."""

import numpy as np
import pytest
from PIL import Image

from dalle_base.common.images import FRAME, GAP, WHITE, grid


@pytest.mark.parametrize("scale", [1, 2])
@pytest.mark.parametrize("labels", [None, ["a", "b", "c"]])
def test_a_white_image_has_an_edge_and_none_of_an_image_is_covered(
    scale: int, labels: list[str] | None
) -> None:
    width, height = 10 * scale, 6 * scale
    images = [Image.new("RGB", (10, 6), colour) for colour in ("white", "red", "white")]
    sheet = np.asarray(grid(images, 2, labels, "a title", scale))
    below = 14 if labels else 0
    for index, image in enumerate(images):
        row, column = divmod(index, 2)
        left = GAP + column * (width + GAP)
        top = GAP + 16 + row * (height + below + GAP)
        own = sheet[top : top + height, left : left + width]
        assert (own == image.getpixel((0, 0))).all()
        right, bottom = left + width, top + height
        sides = {
            "left": sheet[top:bottom, left - 1],
            "right": sheet[top:bottom, right],
            "top": sheet[top - 1, left:right],
            "bottom": sheet[bottom, left:right],
        }
        for name, line in sides.items():
            assert (line == FRAME).all(), name
    assert FRAME != WHITE
