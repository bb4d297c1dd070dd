"""What metrics are given: a batch of reconstructions, or sampled images with their captions."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from dvae.perceptual import Network
from dvae.tokenizer import ImageTokenizer

if TYPE_CHECKING:
    from dalle_evaluation.nearest import Neighbours


class Rebuilt(NamedTuple):
    """A batch of images and what a tokenizer leaves of them, on its device."""

    images: Tensor
    """[B, 3, S, S] in [0, 1]."""
    codes: Tensor
    """int64 [B, R, C]."""
    rebuilt: Tensor
    """Decoded codes, [B, 3, S, S] in [0, 1]."""
    tokenizer: ImageTokenizer
    network: Network | None
    """For perceptual distances; None where it is not installed."""
    generator: torch.Generator
    """Of the CPU, for what is drawn; it goes on from batch to batch."""


@dataclass(frozen=True)
class Pairs:
    """n images with their captions, and a dual encoder's features of both."""

    images: Sequence[Image.Image]
    captions: Sequence[str]
    image_features: np.ndarray
    """float64 [n, E], each of length 1."""
    text_features: np.ndarray
    """float64 [n, E], each of length 1."""
    candidates: np.ndarray = field(default_factory=lambda: np.empty((0, 0, 0)))
    """float64 [c, k, E], each of length 1: features of k candidates of each of c captions. Of real
    images, which are one a caption: of k different captions. Empty: there are none."""
    neighbours: "Neighbours | None" = None
    """The training images that are nearest to these, or None."""

    @property
    def similarities(self) -> np.ndarray:
        """Cosines [n, n]: images down, captions across."""
        return self.image_features @ self.text_features.T
