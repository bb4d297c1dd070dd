"""Scores of sampled images by a dual encoder, each with an interval and beside real images.

A score of sampled images alone says little: what real images get under the same captions is the
ceiling, and what resampling the captions changes is the noise.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from PIL import Image

from dalle_base.common.errors import UserError
from dalle_base.data.batches import ImageDataset
from dalle_base.data.captions import with_artist
from dalle_base.data.sources.base import Source
from dalle_evaluation.frechet import frechet_score
from dalle_evaluation.intervals import Score, interval
from dalle_evaluation.metrics import METRICS
from dalle_evaluation.metrics.base import Pairs
from dalle_evaluation.reconstructions import image_of
from dual_encoder.ranker import Ranker

if TYPE_CHECKING:
    from dalle_evaluation.nearest import Neighbours


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


class Beside(NamedTuple):
    """What else is scored, where there is any."""

    candidates: Sequence[Sequence[Image.Image]] = ()
    """k candidates of each of some captions."""
    sampled: "Neighbours | None" = None
    """The training images that are nearest to the sampled images."""
    held_out: "Neighbours | None" = None
    """Those that are nearest to held-out images."""


def scores(
    ranker: Ranker,
    sampled: Sequence[Image.Image],
    held_out: HeldOutImages,
    resamples: int = 1000,
    seed: int = 0,
    beside: Beside | None = None,
) -> dict[str, Score]:
    """Score one sampled image for each held-out caption, beside the real ones.

    Returns:
        The figures of all METRICS, and `fd_dual_encoder`, see `frechet_score`. Intervals are
        percentile bootstraps over captions or images.
    """
    beside = beside or Beside()
    text = ranker.text_features(held_out.captions).double().numpy()
    sampled_features, real_features, reference = (
        ranker.image_features(images).double().numpy()
        for images in (sampled, held_out.real, held_out.reference)
    )
    candidates = [ranker.image_features(each).double().numpy() for each in beside.candidates]
    of_sampled = Pairs(
        sampled, held_out.captions, sampled_features, text, neighbours=beside.sampled
    )
    of_real = Pairs(
        held_out.real, held_out.captions, real_features, text, neighbours=beside.held_out
    )
    if candidates:
        together = candidates_of_real(real_features, held_out.captions, candidates)
        of_sampled = replace(of_sampled, candidates=np.stack(candidates))
        of_real = replace(of_real, candidates=together)
    found = {}
    for measure in METRICS.values():
        real = measure(of_real)
        for name, values in measure(of_sampled).items():
            if name in real:
                found[name] = Score(
                    *(interval(each, resamples, seed) for each in (values, real[name]))
                )
    distance = frechet_score(sampled_features, real_features, reference, resamples, seed)
    return found | {"fd_dual_encoder": distance}


def candidates_of_real(
    features: np.ndarray, captions: Sequence[str], candidates: Sequence[np.ndarray]
) -> np.ndarray:
    """Return groups of real images of different captions, [groups, k, E], as candidates stand.

    Args:
        features: of the real images, [n, E].
        captions: theirs.
        candidates: c of [k, E].
    """
    first = [*{caption: i for i, caption in reversed([*enumerate(captions)])}.values()]
    count = min(len(candidates[0]), len(first))
    chosen = [
        [first[(group + other) % len(first)] for other in range(count)]
        for group in range(len(first))
    ]
    return features[np.array(chosen)]


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
