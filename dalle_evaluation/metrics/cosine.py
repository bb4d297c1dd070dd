"""The cosine similarity of an image and its caption."""

from dalle_evaluation.intervals import Values
from dalle_evaluation.metrics.base import Pairs


def measure(pairs: Pairs) -> dict[str, Values]:
    """Cosine of each image's features with its caption's, from -1 to 1."""
    return {"cosine": pairs.similarities.diagonal()}
