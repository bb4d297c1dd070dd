"""Figures with their intervals: the noise of what was measured."""

from typing import NamedTuple

import numpy as np


class Interval(NamedTuple):
    """A figure and the 95 % interval of its resamples."""

    value: float
    low: float
    high: float


class Score(NamedTuple):
    """A figure of sampled images, and the same of real ones: its ceiling."""

    sampled: Interval
    real: Interval


def mean_interval(values: np.ndarray, resamples: int, seed: int = 0) -> Interval:
    """The mean of values [n] with its percentile bootstrap interval."""
    rng = np.random.default_rng(seed)
    means = [values[rng.integers(len(values), size=len(values))].mean() for _ in range(resamples)]
    low, high = np.percentile(means, [2.5, 97.5])
    return Interval(float(values.mean()), float(low), float(high))
