"""How fast a transformer learns images by heart: one config against another at equal compute.

python -m experiments.learning_speed --config configs/dalle/emoji-clean.yaml images=400 \\
    run.out=runs/speed-rotary model.positions=rotary

A model that draws known captions right has learned its corpus nearly by heart; a part of the corpus
is learned in minutes and tells recipes apart. Measured on the training images themselves, under
captions that name the artist, with the averaged weights. Each run's metrics.jsonl has the curve.
"""

import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from dalle_base.common.config import load_config
from dalle_base.common.errors import UserError, command
from dalle_base.data.sources import open_sources
from dalle_base.training.config import RunConfig
from train_dalle import TrainDALLE, train

if TYPE_CHECKING:
    from dalle_base.data.sources.base import Source


@dataclass
class LearningSpeed(TrainDALLE):
    """A run of stage two on a part of its data."""

    images: int = 400
    """Training images, of whole captions: all artists' images of each."""
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
