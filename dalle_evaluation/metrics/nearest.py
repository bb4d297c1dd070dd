"""How near images are to the nearest training image: whether a model samples what it remembers."""

import numpy as np

from dalle_evaluation.intervals import Values
from dalle_evaluation.metrics.base import Pairs


def measure(pairs: Pairs) -> dict[str, Values]:
    """The distance to the nearest training image, and the share of near copies, in two spaces.

    A near copy is nearer to a training image than 95 % of held-out images are, all of them as the
    decoder makes them: of held-out images, which stand beside it, they are 5 %.
    """
    figures: dict[str, Values] = {}
    if pairs.neighbours is None:
        return figures
    for space, near in pairs.neighbours.items():
        figures[f"nearest_training_{space}"] = near.distances
        figures[f"near_copies_{space}"] = (near.distances <= near.threshold).astype(np.float64)
    return figures
