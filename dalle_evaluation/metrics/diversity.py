"""How different the candidates of one caption are."""

import numpy as np

from dalle_evaluation.intervals import Values
from dalle_evaluation.metrics.base import Pairs


def measure(pairs: Pairs) -> dict[str, Values]:
    """The mean distance of two candidates' features, for each caption: 0 where all are equal.

    Beside it stands that of real images of different captions: a model that comes near to it does
    not hear what it is asked for.
    """
    count, candidates = pairs.candidates.shape[:2]
    if not count or candidates < 2:
        return {}
    first, second = np.triu_indices(candidates, 1)
    apart = pairs.candidates[:, first] - pairs.candidates[:, second]  # [c, pairs, E]
    return {"diversity": np.linalg.norm(apart, axis=2).mean(axis=1)}
