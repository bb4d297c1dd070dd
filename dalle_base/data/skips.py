"""Images that cannot be read: named, counted, and too many of them end the run."""

import math

from dalle_base.common.errors import UserError
from dalle_base.common.report import say, shown

MIN_TRIED = 20
"""Before so many images were tried, no share of them says much."""
MOST_NAMED = 20
DEVIATIONS = 3
"""The share must be above the limit by so many standard deviations of a binomial count: images
come in a random order, and a few bad ones may come first."""


class Skips:
    """Counts images that were tried and those of them that could not be read."""

    def __init__(self, limit: float = 1.0) -> None:
        """`limit` is the largest share that may be skipped, 0 to 1."""
        self.limit = limit
        self.tried = self.failed = 0
        self.names: set[str] = set()
        """What could not be read, each once however often it is tried."""

    def name(self, name: str, reason: str) -> None:
        """Say that an image cannot be read; only once, and not of endlessly many."""
        if name in self.names:
            return
        self.names.add(name)
        if len(self.names) <= MOST_NAMED:
            say(f"skipped an unreadable image ({len(self.names)} so far): {shown(reason)}")
        if len(self.names) == MOST_NAMED:
            say("further unreadable images are counted and not named")

    def count(self, failed: bool, reason: str = "") -> None:
        """Count an image that was tried. Raises `UserError` where too many could not be read."""
        self.tried += 1
        self.failed += failed
        if failed and self.too_many:
            share = self.failed / self.tried
            raise UserError(
                f"{self.failed} of {self.tried} images tried cannot be read ({share:.0%}, the "
                f"last: {shown(reason)}); mend or remove them, or allow more: "
                f"data.max_skipped is {self.limit:g}"
            )

    @property
    def too_many(self) -> bool:
        """Whether the share of images that cannot be read is above the limit."""
        if self.limit == 0:
            return self.failed > 0
        luck = DEVIATIONS * math.sqrt(self.tried * self.limit * (1 - self.limit))
        return self.tried >= MIN_TRIED and self.failed > self.limit * self.tried + luck
