"""Figures with their intervals: the noise of what was measured."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

TOGETHER = 2**22
"""Numbers of a resample's rows that are held at a time."""


class Interval(NamedTuple):
    """A figure and the 95 % interval of its resamples."""

    value: float
    low: float
    high: float


class Score(NamedTuple):
    """A figure of sampled images, and the same of real ones: its ceiling."""

    sampled: Interval
    real: Interval


class OfMean(NamedTuple):
    """A figure of n images that is no mean, but depends on means alone: a ratio, a perplexity."""

    rows: np.ndarray
    """[n, k], k numbers of each image."""
    of: Callable[[np.ndarray], float]
    """From the rows' means [k], float64, to the figure."""
    most: float = np.inf
    """What the figure cannot exceed: no interval does."""


Values = np.ndarray | OfMean
"""What a metric returns: one value of each image [n], whose mean is the figure, or `OfMean`."""


def joined(parts: list[Values]) -> Values:
    """Return the values of several batches of images as one."""
    first = parts[0]
    if isinstance(first, OfMean):
        return OfMean(
            np.concatenate([p.rows for p in parts if isinstance(p, OfMean)]), first.of, first.most
        )
    return np.concatenate([p for p in parts if not isinstance(p, OfMean)])


def ratio(totals: np.ndarray, counts: np.ndarray, most: float = np.inf) -> OfMean:
    """Return the figure sum of `totals` [n] over sum of `counts` [n]: a mean over their parts.

    Not a number where nothing is counted.
    """
    rows = np.stack([totals, counts], axis=1)
    return OfMean(rows, lambda means: float(means[0] / means[1]) if means[1] else np.nan, most)


def interval(values: Values, resamples: int, seed: int = 0) -> Interval:
    """Return a metric's figure with its bootstrap interval over images."""
    if isinstance(values, OfMean):
        return _interval_of_mean(values, resamples, seed)
    return mean_interval(values, resamples, seed)


def mean_interval(values: np.ndarray, resamples: int, seed: int = 0) -> Interval:
    """The mean of values [n] with its percentile bootstrap interval."""
    rng = np.random.default_rng(seed)
    means = [values[rng.integers(len(values), size=len(values))].mean() for _ in range(resamples)]
    low, high = np.percentile(means, [2.5, 97.5])
    return Interval(float(values.mean()), float(low), float(high))


def _interval_of_mean(values: OfMean, resamples: int, seed: int) -> Interval:
    """The figure with its interval: a resample counts each image so many times.

    A resample leaves out images, so that a figure which counts something (codes in use) is smaller
    in all of them. The interval is therefore that of the resamples' figures less the amount by
    which their mean lies off the figure. Resamples whose figure is not a number do not count.
    """
    rows, count = values.rows, len(values.rows)
    rng = np.random.default_rng(seed)
    figure = values.of(rows.mean(axis=0, dtype=np.float64))
    figures, each = [], max(1, TOGETHER // max(count, rows.shape[1]))
    wide = rows.astype(np.float32 if rows.shape[1] > 2 else np.float64)
    for first in range(0, resamples, each):
        some = min(each, resamples - first)
        times = np.stack([_times(rng, count) for _ in range(some)]).astype(wide.dtype)
        figures += [values.of(means) for means in (times @ wide).astype(np.float64) / count]
    low, high = np.nanpercentile(figures, [2.5, 97.5]) - (np.nanmean(figures) - figure)
    return Interval(figure, min(float(low), figure), max(figure, min(float(high), values.most)))


def _times(rng: np.random.Generator, count: int) -> np.ndarray:
    """How often a resample of `count` images has each of them."""
    return np.bincount(rng.integers(count, size=count), minlength=count)
