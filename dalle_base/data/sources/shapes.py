"""Scenes drawn in code, each with its caption."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Annotated, get_args

from dalle_base.common.bounds import Bounds, Share
from dalle_base.common.errors import UserError
from dalle_base.data.config import DataConfig
from dalle_base.data.sources.base import Record, Source


@dataclass
class ShapesConfig(DataConfig):
    """Scenes drawn in code: of `split` to train on, of the "test" split to measure on."""

    split: str = "train"
    """Split to train on: train, test or compositional."""
    count: Annotated[int, Bounds(1, 10_000_000)] = 20000
    """Number of scenes before they repeat."""
    object_odds: list[Share] = field(default_factory=lambda: [0.2, 0.4, 0.4])
    """How often a scene to train on has one, two and three objects; their sum need not be 1."""

    def validate(self) -> None:
        """Raise `UserError` on odds that are none."""
        if len(self.object_odds) != 3 or sum(self.object_odds) <= 0:
            raise UserError(
                f"data.object_odds is {self.object_odds}: write three numbers, of scenes of one, "
                "two and three objects, one of them above 0"
            )

    def open(self) -> tuple[Source, Source]:
        """Return the training and the held-out source."""
        training = ShapesSource(self.split, self.count, self.object_odds)
        return training, ShapesSource("test", self.count)


class ShapesSource:
    """Scenes drawn in code: `count` of them, each with its caption.

    `odds` are of one, two and three objects; empty: as in the "test" split.
    """

    def __init__(self, split: str, count: int, odds: Sequence[float] = ()) -> None:
        from dalle_base.data import shapes  # with the drawing of them, not for --help

        if split not in get_args(shapes.Split):
            known = ", ".join(get_args(shapes.Split))
            raise UserError(f"data.split is {split!r}; shapes has {known}")
        self.shapes, self.split, self.count = shapes, split, count
        odds = odds or shapes.OBJECT_ODDS
        self.odds = [each / sum(odds) for each in odds]

    def __len__(self) -> int:
        return self.count

    def record(self, index: int) -> Record:
        scene, caption = self.shapes.described_scene(self.split, 0, index, self.odds)
        # Drawn on demand: stage two reads captions far more often than images.
        return Record(f"shapes {self.split} {index}", partial(self.shapes.render, scene), caption)

    def has_caption(self, index: int) -> bool:
        return True
