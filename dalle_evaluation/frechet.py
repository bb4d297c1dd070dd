"""The Fréchet distance of two sets of features (Heusel et al. 2017, arXiv 1706.08500)."""

import numpy as np
from tqdm import tqdm

from dalle_evaluation.intervals import Interval, Score


def frechet_distance(
    mean: np.ndarray, covariance: np.ndarray, other_mean: np.ndarray, other_covariance: np.ndarray
) -> float:
    """The squared Fréchet distance of two Gaussians (eq. 6).

    |m - m'|² + tr(C) + tr(C') - 2 tr(√(C C')). The last trace is that of the symmetric matrix
    √(√C C' √C), whose eigenvalues are real also where a covariance is singular. In float64.
    """
    values, vectors = np.linalg.eigh(covariance.astype(np.float64))
    root = (vectors * np.sqrt(values.clip(min=0))) @ vectors.T
    product = root @ other_covariance.astype(np.float64) @ root
    trace = np.sqrt(np.linalg.eigvalsh((product + product.T) / 2).clip(min=0)).sum()
    difference = mean.astype(np.float64) - other_mean
    total = difference @ difference + np.trace(covariance) + np.trace(other_covariance) - 2 * trace
    return max(float(total), 0.0)


def frechet_score(
    sampled: np.ndarray,
    real: np.ndarray,
    reference: np.ndarray,
    resamples: int = 1000,
    seed: int = 0,
) -> Score:
    """The Fréchet distance of features [n, E] from a reference [m, E] of other real images.

    The distance grows as there are fewer images, so both sides of both figures have m of them
    (n is at least m): m sampled, or the real images of the same captions, against the reference.
    Compare it only with figures at the same m.

    A resample repeats images, which makes the distance larger. The interval is therefore that of
    the resamples' distances less the amount by which their mean lies above the figure.
    """
    count = len(reference)
    sampled, real, reference = _compact(sampled[:count], real[:count], reference)
    intervals = []
    for features, name in ((sampled, "sampled"), (real, "real")):
        value = _distance(features, reference)
        rng = np.random.default_rng(seed)
        distances = np.array(
            [
                _distance(_resample(features, rng), _resample(reference, rng))
                for _ in tqdm(range(resamples), f"resampling {name}", dynamic_ncols=True)
            ]
        )
        low, high = np.percentile(distances - distances.mean() + value, [2.5, 97.5])
        intervals.append(Interval(value, max(float(low), 0.0), float(high)))
    return Score(*intervals)


def _distance(features: np.ndarray, other: np.ndarray) -> float:
    return frechet_distance(
        features.mean(axis=0),
        np.cov(features, rowvar=False),
        other.mean(axis=0),
        np.cov(other, rowvar=False),
    )


def _resample(features: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    return features[rng.integers(len(features), size=len(features))]


def _compact(*parts: np.ndarray) -> list[np.ndarray]:
    """Turn features [., E] into the space they span, which keeps distances, where it is smaller."""
    together = np.concatenate(parts).astype(np.float64)
    if len(together) < together.shape[1]:
        basis, _ = np.linalg.qr(together.T)
        together = together @ basis
    return np.split(together, np.cumsum([len(part) for part in parts])[:-1])
