"""CLIPScore (Hessel et al. 2021, arXiv 2104.08718), without its "A photo depicts"."""

from dalle_evaluation.intervals import Values
from dalle_evaluation.metrics.base import Pairs

WEIGHT = 2.5
"""Stretches cosines to about 0 to 1 (section 3)."""


def measure(pairs: Pairs) -> dict[str, Values]:
    """The cosine of each image and its caption where it is positive, else 0, stretched."""
    return {"clip_score": WEIGHT * pairs.similarities.diagonal().clip(min=0)}
