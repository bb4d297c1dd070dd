"""Scenes drawn in code, each with its caption."""

from dataclasses import dataclass
from functools import partial
from typing import Annotated, get_args

from dalle_base.common.bounds import Bounds
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

    def open(self) -> tuple[Source, Source]:
        """Return the training and the held-out source."""
        return ShapesSource(self.split, self.count), ShapesSource("test", self.count)


class ShapesSource:
    """Scenes drawn in code: `count` of them, each with its caption."""

    def __init__(self, split: str, count: int) -> None:
        from dalle_base.data import shapes  # with the drawing of them, not for --help

        if split not in get_args(shapes.Split):
            known = ", ".join(get_args(shapes.Split))
            raise UserError(f"data.split is {split!r}; shapes has {known}")
        self.shapes, self.split, self.count = shapes, split, count

    def __len__(self) -> int:
        return self.count

    def record(self, index: int) -> Record:
        scene, caption = self.shapes.described_scene(self.split, 0, index)
        # Drawn on demand: stage two reads captions far more often than images.
        return Record(f"shapes {self.split} {index}", partial(self.shapes.render, scene), caption)

    def has_caption(self, index: int) -> bool:
        return True
