"""The nearest training images of samples, all of them as the decoder makes them."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from PIL import Image

from dalle_base.data.batches import ImageDataset
from dalle_evaluation.reconstructions import batches_of, image_of, reconstructions
from dual_encoder.ranker import Ranker
from dvae.tokenizer import ImageTokenizer

HELD_OUT_SHARE = 0.05
"""Share of held-out images that count as near copies: what sets the threshold."""
SIDE = 16
"""Images are compared pixel by pixel at so many pixels on a side."""

Space = Callable[[Sequence[Image.Image]], np.ndarray]
"""From images to features [n, D] whose distances are measured."""


class Near(NamedTuple):
    """The nearest training images of n images in one space."""

    distances: np.ndarray
    """[n]."""
    indices: np.ndarray
    """[n], numbers among the training images."""
    threshold: float
    """What 95 % of held-out images are farther than."""


Neighbours = Mapping[str, Near]
"""By the name of the space."""


@dataclass(frozen=True, eq=False)
class TrainingImages:
    """Reconstructions of training images, and how near those of held-out images come to them."""

    spaces: Mapping[str, Space]
    features: Mapping[str, np.ndarray]
    """By space, [m, D]."""
    held_out: Neighbours
    tokenizer: ImageTokenizer
    images: ImageDataset

    def rebuilt(self, indices: Sequence[int]) -> list[Image.Image]:
        """Return some of the training images as they are decoded."""
        chosen = [image_of(self.images[i, i].pixels) for i in indices]
        return reconstructions(self.tokenizer, chosen)

    def nearest(self, images: Sequence[Image.Image]) -> Neighbours:
        """Return the nearest training images of samples."""
        found = {}
        for name, space in self.spaces.items():
            distances, indices = nearest_rows(space(images), self.features[name])
            found[name] = Near(distances, indices, self.held_out[name].threshold)
        return found


def spaces_of(ranker: Ranker) -> dict[str, Space]:
    """Return where images are compared: the scorer's features, of length 1, and small pixels."""
    return {"scorer": lambda images: ranker.image_features(images).numpy(), "pixels": small_pixels}


def small_pixels(images: Sequence[Image.Image]) -> np.ndarray:
    """Return float32 [n, 3 SIDE²]: the distance of two is the root of their mean squared error."""
    small = [image.resize((SIDE, SIDE), Image.Resampling.BOX) for image in images]
    rows = np.stack([np.asarray(image, dtype=np.float32).ravel() for image in small]) / 255
    return rows / np.float32(np.sqrt(rows.shape[1]))


def open_training(
    tokenizer: ImageTokenizer,
    training: ImageDataset,
    held_out: Sequence[Image.Image],
    spaces: Mapping[str, Space],
) -> TrainingImages:
    """Reconstruct all training images and the held-out ones, and compare them.

    Args:
        tokenizer: whose decoder made the samples as well.
        training: at the tokenizer's size, unaugmented.
        held_out: images that training never saw, of that size.
        spaces: where to compare.
    """
    features: dict[str, list[np.ndarray]] = {name: [] for name in spaces}
    for images in batches_of(training):
        rebuilt = reconstructions(tokenizer, images)
        for name, space in spaces.items():
            features[name].append(space(rebuilt))
    joined = {name: np.concatenate(parts) for name, parts in features.items()}
    rebuilt, near = reconstructions(tokenizer, held_out), {}
    for name, space in spaces.items():
        distances, indices = nearest_rows(space(rebuilt), joined[name])
        threshold = float(np.quantile(distances, HELD_OUT_SHARE))
        near[name] = Near(distances, indices, threshold)
    return TrainingImages(spaces, joined, near, tokenizer, training)


def nearest_rows(
    rows: np.ndarray, others: np.ndarray, together: int = 256
) -> tuple[np.ndarray, np.ndarray]:
    """Return the distance of each row [n, D] from the nearest of others [m, D], and which it is."""
    squares, found = np.square(others).sum(axis=1), []
    for first in range(0, len(rows), together):
        some = rows[first : first + together]
        found.append((squares - 2 * some @ others.T).argmin(axis=1))  # less the row's own square
    indices = np.concatenate(found)
    # From the difference itself: what is left of the squares of equal rows is rounding.
    apart = rows.astype(np.float64) - others[indices]
    return np.linalg.norm(apart, axis=1), indices
