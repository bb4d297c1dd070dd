"""How fast a transformer learns images by heart: one config against another at equal compute.

python -m experiments.learning_speed --config configs/dalle/emoji-clean.yaml images=400 \\
    run.out=runs/speed-rotary model.positions=rotary

A model that draws known captions right has learned its corpus nearly by heart; a part of the corpus
is learned in minutes and tells recipes apart. Measured on the training images themselves, under
captions that name the artist, with the averaged weights. Each run's metrics.jsonl has the curve;
at the end, how many codes of samples are those of the image that the caption is of.
"""

import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from dalle_base.common.bounds import From1
from dalle_base.common.config import load_config
from dalle_base.common.errors import UserError, command
from dalle_base.data.sources import open_sources
from dalle_base.training.config import RunConfig
from train_dalle import TrainDALLE, train

if TYPE_CHECKING:
    from dalle_base.data.sources.base import Source
    from dalle_base.training.run import Run


@dataclass
class LearningSpeed(TrainDALLE):
    """A run of stage two on a part of its data."""

    images: From1 = 400
    """Training images, of whole captions: all artists' images of each."""
    sampled: From1 = 100
    """Captions sampled at the end, as `sampling` says, with the last model measured."""
    run: RunConfig = field(default_factory=lambda: RunConfig(updates=250, evaluate_every=25))
    """Length and output."""


@command
def main() -> None:
    config = load_config(LearningSpeed, __doc__ or "")
    from dalle_base.data.sources.base import Subset, captioned
    from dalle_base.training.run import Run

    source = captioned(open_sources(config.data)[0])
    few = Subset(source, of_whole_captions(source, config.images))
    with Run(config) as run:
        started = time.process_time()
        train(config, run, (few, few))
        run.write(f"{time.process_time() - started:.0f} s of one core, measurements included")
        share = own_codes(run, few, config.sampled)
        run.write(f"{share:.1%} of the codes sampled under their captions are the image's own")
        run.log({"own_codes": share}, now=True)


def own_codes(run: "Run", source: "Source", count: int) -> float:
    """The share of codes, of one sample of each caption, that its own image has there."""
    from dalle.checkpoint import load_text_to_image
    from dalle_base.common.images import open_image
    from dalle_base.data.captions import with_artist
    from dalle_evaluation.judge import same_codes

    model = load_text_to_image(run.folder / "model", rerank=False)
    records = [source.record(i) for i in range(min(count, len(source)))]
    samples = model.generate([with_artist(record) for record in records], seed=0)
    real = model.codes([open_image(record.image, record.name) for record in records])
    return same_codes(samples.codes, real).mean().item()


def of_whole_captions(source: "Source", images: int) -> list[int]:
    """Indices of so many images or a few less, all those of some captions, the same each time."""
    places: dict[str, list[int]] = {}
    for index in range(len(source)):
        places.setdefault(source.record(index).caption or "", []).append(index)
    captions = np.random.default_rng(0).permutation(sorted(places))
    chosen: list[int] = []
    for caption in captions:
        if len(chosen) + len(places[caption]) <= images:
            chosen += places[caption]
    if not chosen:
        raise UserError(f"images={images}: no caption has so few images")
    return sorted(chosen)


if __name__ == "__main__":
    raise SystemExit(main())
