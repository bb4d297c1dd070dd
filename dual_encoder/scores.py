"""Scores of drawn pictures by a dual encoder, each with an interval and beside real pictures.

A score of drawn pictures alone says little: what real pictures get under the same captions is the
ceiling, and what resampling the captions changes is the noise.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image
from tqdm import tqdm

from dual_encoder.checkpoint import Ranker
from dual_encoder.metrics import RECALLS, ranks
from training.data import Pictures, Source, with_artist
from training.errors import UserError

CLIP_SCORE_WEIGHT = 2.5
"""Stretches cosines to about 0 to 1 (Hessel et al. 2021, arXiv 2104.08718, section 3)."""


class Interval(NamedTuple):
    """A figure and the 95 % interval of its resamples."""

    value: float
    low: float
    high: float


class Score(NamedTuple):
    """A figure of drawn pictures, and the same of real ones: its ceiling."""

    drawn: Interval
    real: Interval


class Scored(NamedTuple):
    """Held-out captions to draw, and real pictures to compare with."""

    captions: list[str]
    """The n captions, with their artist where there is one."""
    real: list[Image.Image]
    """Their n pictures, of the size that the model draws."""
    reference: list[Image.Image]
    """m other pictures; Fréchet distances are between m and m."""


def choose_held_out(source: Source, count: int, size: int) -> Scored:
    """Choose at most `count` captioned pictures, always the same, and as many others.

    Of a source of N there are min(count, N // 2) others. The pictures are brought to `size`, as for
    training, so that no score is the resolution's. Raises `UserError` for fewer than four.
    """
    if count < 2 or len(source) < 4:
        raise UserError(
            f"scores of {count} captions out of {len(source)} held-out pictures: at least 2 of 4 "
            "are needed"
        )
    order = np.random.default_rng(0).permutation(len(source)).tolist()
    pictures = Pictures(source, size, None)
    chosen = [pictures[i, i] for i in order[:count]]
    others = order[-min(count, len(source) // 2) :]
    return Scored(
        # A picture that could not be read was replaced by another, with that one's caption.
        [with_artist(source.record(example.index)) for example in chosen],
        [_picture(example.pixels) for example in chosen],
        [_picture(pictures[i, i].pixels) for i in others],
    )


def _picture(pixels: np.ndarray) -> Image.Image:
    return Image.fromarray(np.ascontiguousarray(pixels.transpose(1, 2, 0)))


def scores(
    ranker: Ranker,
    drawn: Sequence[Image.Image],
    held_out: Scored,
    resamples: int = 1000,
    seed: int = 0,
) -> dict[str, Score]:
    """Score one drawn picture for each held-out caption, beside the real ones.

    cosine and clip_score   of pictures with their captions (without CLIPScore's "A photo depicts")
    recall                  share of captions whose picture is among the best k of all n, and of
                            pictures whose caption is; left out where n is not above k
    fd_dual_encoder         see `frechet_score`

    Intervals are percentile bootstraps over captions or pictures.
    """
    words = ranker.text_features(held_out.captions).double().numpy()
    features = {
        "drawn": ranker.image_features(drawn).double().numpy(),
        "real": ranker.image_features(held_out.real).double().numpy(),
    }
    reference = ranker.image_features(held_out.reference).double().numpy()
    figures: dict[str, dict[str, Interval]] = {}
    for kind, images in features.items():
        similarities = images @ words.T
        cosines = similarities.diagonal()
        values = {"clip_score": CLIP_SCORE_WEIGHT * cosines.clip(min=0), "cosine": cosines}
        for k in RECALLS:
            if k < len(images):
                to_picture = recalled(similarities.T, held_out.captions, k)
                values[f"text_to_picture_recall_at_{k}"] = to_picture
                to_text = recalled(similarities, held_out.captions, k)
                values[f"picture_to_text_recall_at_{k}"] = to_text
        for name, row in values.items():
            figures.setdefault(name, {})[kind] = mean_interval(row, resamples, seed)
    found = {name: Score(**pair) for name, pair in figures.items()}
    found["fd_dual_encoder"] = frechet_score(
        features["drawn"], features["real"], reference, resamples, seed
    )
    return found


def recalled(similarities: np.ndarray, captions: Sequence[str], k: int) -> np.ndarray:
    """For each row of similarities [n, n], 1.0 if a right answer is among its best k, else 0.0.

    Row i asks for what has the caption of i, so pictures with equal captions are all right. A wrong
    answer that ties with the right one stands before it: a model to which all is alike has no hits.
    """
    names = np.array(captions)
    right = names[:, None] == names[None, :]
    found = ranks(torch.from_numpy(similarities), torch.from_numpy(right))
    return (found <= k).double().numpy()


def mean_interval(values: np.ndarray, resamples: int, seed: int = 0) -> Interval:
    """The mean of values [n] with its percentile bootstrap interval."""
    rng = np.random.default_rng(seed)
    means = [values[rng.integers(len(values), size=len(values))].mean() for _ in range(resamples)]
    low, high = np.percentile(means, [2.5, 97.5])
    return Interval(float(values.mean()), float(low), float(high))


def frechet_distance(
    mean: np.ndarray, covariance: np.ndarray, other_mean: np.ndarray, other_covariance: np.ndarray
) -> float:
    """The squared Fréchet distance of two Gaussians (Heusel et al. 2017, arXiv 1706.08500, eq. 6).

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
    drawn: np.ndarray, real: np.ndarray, reference: np.ndarray, resamples: int = 1000, seed: int = 0
) -> Score:
    """The Fréchet distance of features [n, E] from a reference [m, E] of other real pictures.

    The distance grows as there are fewer pictures, so both sides of both figures have m of them
    (n is at least m): m drawn, or the real pictures of the same captions, against the reference.
    Compare it only with figures at the same m.

    A resample repeats pictures, which makes the distance larger. The interval is therefore that of
    the resamples' distances less the amount by which their mean lies above the figure.
    """
    count = len(reference)
    drawn, real, reference = _compact(drawn[:count], real[:count], reference)
    intervals = []
    for features, name in ((drawn, "drawn"), (real, "real")):
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


def fid(
    features: Callable[[Sequence[Image.Image]], np.ndarray],
    drawn: Sequence[Image.Image],
    held_out: Scored,
    resamples: int = 1000,
) -> Score:
    """The Fréchet inception distance, with `features` of dual_encoder.inception; as above."""
    count = len(held_out.reference)
    return frechet_score(
        features(drawn[:count]),
        features(held_out.real[:count]),
        features(held_out.reference),
        resamples,
    )
