"""Attention within a row, as some reimplementations have it."""

from torch import Tensor

from dalle.patterns.base import Blocks, Pattern
from dalle.stream import Stream


class SameRow(Pattern):
    """The codes before it in its own row, and the code itself: none of the rows above.

    Not in the paper, whose row attention reaches the code directly above (`row`).
    """

    name = "same_row"

    def sees(self, query: Tensor, key: Tensor, stream: Stream) -> Tensor:
        return stream.row(query) == stream.row(key)

    def blocks(self, stream: Stream) -> Blocks:
        # Blocks begin at the position before the codes, so that a row lies in two of them.
        return Blocks(size=stream.columns, reach=stream.columns - 1)
