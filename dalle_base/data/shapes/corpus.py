"""The corpus: as many examples as wanted, each made when it is asked for."""

from collections.abc import Sequence
from typing import get_args

import numpy as np
from PIL import Image

from dalle_base.common.errors import UserError
from dalle_base.data.shapes.captions import caption
from dalle_base.data.shapes.drawing import render
from dalle_base.data.shapes.scenes import OBJECT_ODDS, Scene, random_scene
from dalle_base.data.shapes.words import Split


def example(split: Split, seed: int, index: int, size: int = 64) -> tuple[Image.Image, str]:
    """Return an image of a split and its caption: the same ones at every call.

    Args:
        split: "train", "test" or "compositional".
        seed: another seed gives other examples.
        index: the example's number.
        size: pixels a side; the scene does not depend on it.

    Raises:
        UserError: another split, a negative number, or too few pixels.
    """
    scene, words = described_scene(split, seed, index)
    return render(scene, size), words


def described_scene(
    split: Split, seed: int, index: int, odds: Sequence[float] = OBJECT_ODDS
) -> tuple[Scene, str]:
    """Return the scene and the caption of `example(split, seed, index)`.

    `odds` of 1, 2 and 3 objects make another corpus. Raises `UserError`.
    """
    if split not in get_args(Split):
        raise UserError(f"split must be train, test or compositional, not {split!r}")
    if seed < 0 or index < 0:
        raise UserError(f"seed and index must not be negative, not {seed} and {index}")
    rng = np.random.default_rng([get_args(Split).index(split), seed, index])
    scene = random_scene(rng, split, odds=odds)
    return scene, caption(scene, rng)
