"""The perceptual distance of reconstructions in the features of EfficientNet-Lite0."""

import torch

from dalle_evaluation.intervals import Values
from dalle_evaluation.metrics.base import Rebuilt
from dvae.image_losses_config import PerceptualConfig
from dvae.perceptual import perceptual_distances

TOGETHER = 16
"""Images at a time: the fastest on a CPU."""


def measure(given: Rebuilt) -> dict[str, Values]:
    """Each image's distance from its reconstruction; nothing without the network.

    It is what tokenizers may be trained by, with the same blocks and size for every tokenizer,
    whatever it was trained by.
    """
    if given.network is None:
        return {}
    how, parts = PerceptualConfig(), []
    for images, rebuilt in zip(
        given.images.split(TOGETHER), given.rebuilt.split(TOGETHER), strict=True
    ):
        parts.append(perceptual_distances(given.network, images, rebuilt, how.blocks, how.size))
    return {"lite0_distance": torch.cat(parts).double().cpu().numpy()}
