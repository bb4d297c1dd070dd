"""Exact match of scenes of shapes with their captions, by the checker that reads images back."""

from collections.abc import Iterator, Sequence

import numpy as np

from dalle.config import Sampling
from dalle.text_to_image import TextToImage
from dalle_base.common.errors import UserError
from dalle_base.data.shapes import CheckResult, check, described_scene, example, tallies
from dalle_base.data.shapes.words import Split
from dalle_evaluation.intervals import Values, ratio
from dalle_evaluation.reconstructions import reconstructions
from dalle_evaluation.request import BOTH
from dalle_evaluation.sampled import counts_up_to, sample
from dvae.tokenizer import ImageTokenizer


def splits_of(name: str) -> Iterator[tuple[Split, str]]:
    """Yield the splits that are asked for, each with what stands before its figures' names.

    One alone has nothing there. Of both, the held-out combinations' figures begin with
    `compositional_`.
    """
    if name == BOTH:
        yield "test", ""
        yield "compositional", "compositional_"
    elif name in ("train", "test", "compositional"):
        yield name, ""
    else:
        raise UserError(f"split is {name!r}; use train, test, compositional or {BOTH}")


def exact_match_of_reconstructions(
    tokenizer: ImageTokenizer, split: Split, count: int
) -> dict[str, Values]:
    """Check tokenizer reconstructions of scenes against their captions: the checker's ceiling."""
    size = tokenizer.image_size
    images, captions = zip(*(example(split, 1, i, size) for i in range(count)), strict=True)
    results = [*map(check, reconstructions(tokenizer, images), captions)]
    return {f"reconstruction_{k}": v for k, v in rates(results).items()}


def exact_match_of_samples(
    model: TextToImage, sampling: Sampling, split: Split, count: int
) -> dict[str, Values]:
    """Sample images for each held-out caption and check them.

    Of several candidates, `sample_` figures are of the first. `sample_best_of_K_exact` is of the
    reranker's favourite among the first K, for powers of 4 and all of them, and
    `sample_any_of_K_exact` says whether any is right, which no choice can beat.
    """
    captions = [described_scene(split, 1, i)[1] for i in range(count)]
    samples = sample(model, captions, sampling, f"sampling {split} scenes")
    each = sampling.candidates
    checked = [*map(check, samples.images, samples.captions)]
    figures = {f"sample_{k}": v for k, v in rates(checked[::each]).items()}
    if each > 1:
        scores = model.rank(samples).view(count, each).numpy()
        exact = np.array([float(result.exact) for result in checked]).reshape(count, each)
        for number in counts_up_to(each):
            best = scores[:, :number].argmax(axis=1)
            figures[f"sample_best_of_{number}_exact"] = exact[np.arange(count), best]
            figures[f"sample_any_of_{number}_exact"] = exact[:, :number].max(axis=1)
    return figures


def rates(results: Sequence[CheckResult]) -> dict[str, Values]:
    """Return the rate of exact images and, for each kind, of attributes that hold."""
    found = {name: (np.array(held), np.array(of)) for name, (held, of) in tallies(results).items()}
    exact, _ = found.pop("exact")
    return {
        "exact": exact.astype(np.float64),
        **{kind: ratio(held, stated, 1) for kind, (held, stated) in found.items()},
    }
