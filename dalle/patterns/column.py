"""Column attention."""

from torch import Tensor

from dalle.patterns.base import Blocks, Pattern
from dalle.stream import Stream


class Column(Pattern):
    """The code itself and the codes above it in the same column."""

    name = "column"

    def sees(self, query: Tensor, key: Tensor, stream: Stream) -> Tensor:
        return stream.column(query) == stream.column(key)

    def blocks(self, stream: Stream) -> Blocks:
        return Blocks(size=stream.rows, step=stream.columns)

    def slots(self, stream: Stream, mask: Tensor) -> list[int]:
        """Column by column, so that a code reads one run."""
        rows, columns = stream.rows, stream.columns
        return [code % columns * rows + code // columns for code in range(stream.image_length)]
