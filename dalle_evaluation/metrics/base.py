"""What a metric is given."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from PIL import Image


class Pairs(NamedTuple):
    """n images with their captions, and a dual encoder's features of both."""

    images: Sequence[Image.Image]
    captions: Sequence[str]
    image_features: np.ndarray
    """float64 [n, E], each of length 1."""
    text_features: np.ndarray
    """float64 [n, E], each of length 1."""

    @property
    def similarities(self) -> np.ndarray:
        """Cosines [n, n]: images down, captions across."""
        return self.image_features @ self.text_features.T
