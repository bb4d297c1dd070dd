"""The corpus: as many examples as wanted, each made when it is asked for."""

from typing import Any, get_args

import numpy as np
from PIL import Image
from torch.utils.data import Dataset

from corpora.shapes.captions import caption
from corpora.shapes.drawing import render
from corpora.shapes.scenes import Scene, random_scene
from corpora.shapes.words import Split
from training.errors import UserError


def example(split: Split, seed: int, index: int, size: int = 64) -> tuple[Image.Image, str]:
    """Picture and caption number `index` of a split: the same ones at every call.

    The picture is RGB, `size` pixels a side, and the scene does not depend on `size`. Raises
    UserError on another split than "train", "test" and "compositional", or a negative number.
    """
    scene, words = described_scene(split, seed, index)
    return render(scene, size), words


def described_scene(split: Split, seed: int, index: int) -> tuple[Scene, str]:
    """The scene and the caption of `example(split, seed, index)`."""
    if split not in get_args(Split):
        raise UserError(f"split must be train, test or compositional, not {split!r}")
    if seed < 0 or index < 0:
        raise UserError(f"seed and index must not be negative, not {seed} and {index}")
    rng = np.random.default_rng([get_args(Split).index(split), seed, index])
    scene = random_scene(rng, split)
    return scene, caption(scene, rng)


class ShapesCorpus(Dataset[dict[str, Any]]):
    """`length` examples of a split, drawn on the fly.

    An item is {"image": RGB picture, "caption": str, "scene": Scene}.
    """

    def __init__(self, length: int, split: Split = "train", seed: int = 0, size: int = 64):
        if length < 1:
            raise UserError(f"a corpus has at least 1 example, not {length}")
        self.length = length
        self.split: Split = split
        self.seed = seed
        self.size = size

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> dict[str, Any]:
        if not 0 <= index < self.length:
            raise IndexError(f"example {index} of a corpus of {self.length}")
        scene, words = described_scene(self.split, self.seed, index)
        return {"image": render(scene, self.size), "caption": words, "scene": scene}
