"""The cosine similarity of an image and its caption."""

import numpy as np

from dalle_evaluation.metrics.base import Pairs


def measure(pairs: Pairs) -> dict[str, np.ndarray]:
    """Cosine of each image's features with its caption's, from -1 to 1."""
    return {"cosine": pairs.similarities.diagonal()}
