"""Scores of sampled images by a dual encoder, each with an interval and beside real images.

A score of sampled images alone says little: what real images get under the same captions is the
ceiling, and what resampling the captions changes is the noise.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from PIL import Image

from dalle_base.common.errors import UserError
from dalle_base.data.batches import ImageDataset
from dalle_base.data.captions import with_artist
from dalle_base.data.sources.base import Source
from dalle_evaluation.frechet import frechet_score
from dalle_evaluation.intervals import Interval, Score, mean_interval
from dalle_evaluation.metrics import METRICS
from dalle_evaluation.metrics.base import Pairs
from dual_encoder.ranker import Ranker


class HeldOutImages(NamedTuple):
    """Held-out captions to sample images of, and real images to compare with."""

    captions: list[str]
    """The n captions, with their artist where there is one."""
    real: list[Image.Image]
    """Their n images, of the size that the model samples."""
    reference: list[Image.Image]
    """m other images; Fréchet distances are between m and m."""


def choose_held_out(source: Source, count: int, size: int) -> HeldOutImages:
    """Choose at most `count` captioned images, always the same, and as many others.

    Of a source of N there are min(count, N // 2) others. The images are brought to `size`, as for
    training, so that no score is the resolution's. Raises `UserError` for fewer than four.
    """
    if count < 2 or len(source) < 4:
        raise UserError(
            f"scores of {count} captions out of {len(source)} held-out images: at least 2 of 4 "
            "are needed"
        )
    order = np.random.default_rng(0).permutation(len(source)).tolist()
    images = ImageDataset(source, size, None)
    chosen = [images[i, i] for i in order[:count]]
    others = order[-min(count, len(source) // 2) :]
    return HeldOutImages(
        # An image that could not be read was replaced by another, with that one's caption.
        [with_artist(source.record(example.index)) for example in chosen],
        [image_of(example.pixels) for example in chosen],
        [image_of(images[i, i].pixels) for i in others],
    )


def image_of(pixels: np.ndarray) -> Image.Image:
    """An array uint8 [3, H, W] as an image."""
    return Image.fromarray(np.ascontiguousarray(pixels.transpose(1, 2, 0)))


def scores(
    ranker: Ranker,
    sampled: Sequence[Image.Image],
    held_out: HeldOutImages,
    resamples: int = 1000,
    seed: int = 0,
) -> dict[str, Score]:
    """Score one sampled image for each held-out caption, beside the real ones.

    Returns:
        The figures of all METRICS, and `fd_dual_encoder`, see `frechet_score`. Intervals are
        percentile bootstraps over captions or images.
    """
    text = ranker.text_features(held_out.captions).double().numpy()
    sets = {"sampled": sampled, "real": held_out.real}
    features = {kind: ranker.image_features(x).double().numpy() for kind, x in sets.items()}
    figures: dict[str, dict[str, Interval]] = {}
    for measure in METRICS.values():
        for kind, images in sets.items():
            pairs = Pairs(images, held_out.captions, features[kind], text)
            for name, values in measure(pairs).items():
                interval = mean_interval(values, resamples, seed)
                figures.setdefault(name, {})[kind] = interval
    found = {name: Score(**pair) for name, pair in figures.items()}
    reference = ranker.image_features(held_out.reference).double().numpy()
    distance = frechet_score(features["sampled"], features["real"], reference, resamples, seed)
    return found | {"fd_dual_encoder": distance}


def fid(
    features: Callable[[Sequence[Image.Image]], np.ndarray],
    sampled: Sequence[Image.Image],
    held_out: HeldOutImages,
    resamples: int = 1000,
) -> Score:
    """The Fréchet inception distance, by `features` of `Inception`; see `frechet_score`."""
    count = len(held_out.reference)
    return frechet_score(
        features(sampled[:count]),
        features(held_out.real[:count]),
        features(held_out.reference),
        resamples,
    )
