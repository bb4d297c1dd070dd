"""Several sources mixed, each with a share of the training examples."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any

from dalle_base.common.errors import UserError
from dalle_base.common.shown import short
from dalle_base.data.config import DataConfig
from dalle_base.data.sources import read_data_config
from dalle_base.data.sources.base import Joined, Record, Source, how_to_caption

WEIGHT = "weight"
MOST_REPEATS = 64
"""A pass in which an image came so often would be as good as no pass."""
_FOR_ALL = {each.name for each in fields(DataConfig)} - {"source"}


@dataclass
class MixtureConfig(DataConfig):
    """Several sources mixed: of each part its weight's share of the training examples."""

    parts: dict[str, dict[str, Any]] = field(default_factory=dict)
    """Sources by names of your own, `NAME: {source: ..., weight: ..., ...}` with each one's
    options. Weights count in relation to their sum (1 where none is given; 0 leaves a part out)."""

    def validate(self) -> None:
        """Raise `UserError` on impossible parts: unknown options, weights that sum to nothing."""
        if not self.parts:
            return  # the default, of which --help tells
        for name, part in self.parts.items():
            for key in sorted(_FOR_ALL & set(part)):
                raise UserError(f"data.parts.{name}.{key} is for all parts: set data.{key}")
            self.part(name)
        weights = self.weights()
        if sum(weights.values()) <= 0:
            raise UserError("the weights of data.parts sum to 0: give one part a weight above 0")

    def part(self, name: str) -> DataConfig:
        """Return the config of a part. Raises `UserError` for what its source does not know."""
        options = {key: value for key, value in self.parts[name].items() if key != WEIGHT}
        if "source" not in options:
            raise UserError(f"data.parts.{name} has no source: name one, source=datasets say")
        if options["source"] == "stream":
            raise UserError(
                f"data.parts.{name} is a stream, which cannot be mixed: "
                "use source=datasets or source=webdataset"
            )
        try:
            return read_data_config(options, f"data.parts.{name}")
        except UserError as error:
            where = f"data.parts.{name}"
            raise UserError(str(error) if where in str(error) else f"{where}: {error}") from None

    def weights(self) -> dict[str, float]:
        """Return the weight of each part. Raises `UserError` for one that is no share."""
        found = {}
        for name, part in self.parts.items():
            try:
                found[name] = float(part.get(WEIGHT, 1))
            except (TypeError, ValueError, OverflowError):
                found[name] = math.nan
            if not 0 <= found[name] < math.inf:
                written = short(part[WEIGHT])
                raise UserError(
                    f"data.parts.{name}.{WEIGHT} is {written}: write a number, 0 or more"
                )
        return found

    def open(self) -> tuple[Source, Source]:
        """Return the mixed training source, and the held-out sources one after the other."""
        if not self.parts:
            raise UserError("data.parts is empty: name sources to mix, with their weights")
        weights = {name: weight for name, weight in self.weights().items() if weight}
        opened: dict[str, tuple[Source, Source]] = {}
        for name in weights:
            opened[name] = self.part(name).open()
            if not len(opened[name][0]):
                raise UserError(f"data.parts.{name} has no images to train on; leave it out")
        trained = {name: train for name, (train, _) in opened.items()}
        return MixtureSource(trained, weights), Joined([each for _, each in opened.values()])


class MixtureSource:
    """Parts in which each image is repeated until every part has its share of a pass.

    A pass is as short as it can be with every image of every part in it at least once. How often
    images of a part come differs by one at most, and the repeats of one stand side by side.
    """

    def __init__(self, parts: Mapping[str, Source], weights: Mapping[str, float]) -> None:
        """`weights` are above 0, in relation to their sum. Raises `UserError` for long passes."""
        self.names = list(parts)
        total = sum(weights[name] for name in parts)
        lengths = {name: len(part) for name, part in parts.items()}
        longest = max(lengths[name] * total / weights[name] for name in parts)
        self.counts = [max(lengths[name], round(longest * weights[name] / total)) for name in parts]
        """How many examples of a pass are of each part."""
        for name, count in zip(parts, self.counts, strict=True):
            if count > MOST_REPEATS * lengths[name]:
                rarest = max(parts, key=lambda name: lengths[name] / weights[name])
                raise UserError(
                    f"data.parts.{name} would repeat each image {count // lengths[name]} times "
                    f"before all of {rarest} were seen: raise the weight of {rarest}"
                )
        self._joined = Joined(
            [_Repeated(part, n) for part, n in zip(parts.values(), self.counts, strict=True)]
        )
        self.sources = self._joined.sources
        """The parts, each repeated."""

    def __len__(self) -> int:
        return len(self._joined)

    def record(self, index: int) -> Record:
        return self._joined.record(index)

    def has_caption(self, index: int) -> bool:
        return self._joined.has_caption(index)

    def how_to_caption(self) -> str:
        """Return what to do where no record has a caption."""
        parts = zip(self.names, self.sources, strict=True)
        return "; ".join(f"data.parts.{name}: {how_to_caption(part)}" for name, part in parts)

    def first_with_same_image(self, index: int) -> int:
        """Return the first index whose record is that of `index`."""
        repeated, at = self._joined.find(index)
        assert isinstance(repeated, _Repeated)
        return index - (at - repeated.first(at))


class _Repeated:
    """A source's n records, repeated to `count`: the i-th is record i n / count, rounded down."""

    def __init__(self, source: Source, count: int) -> None:
        self.source, self.count = source, count

    def __len__(self) -> int:
        return self.count

    def _within(self, index: int) -> int:
        return index * len(self.source) // self.count

    def first(self, index: int) -> int:
        """The first index with the record of `index`."""
        return -(-self._within(index) * self.count // len(self.source))

    def record(self, index: int) -> Record:
        return self.source.record(self._within(index))

    def has_caption(self, index: int) -> bool:
        return self.source.has_caption(self._within(index))


def shares(source: MixtureSource) -> Sequence[float]:
    """The share of a pass that each part has."""
    return [count / len(source) for count in source.counts]
