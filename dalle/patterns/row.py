"""Row attention."""

from torch import Tensor

from dalle.patterns.base import Blocks, Pattern, sliding_blocks
from dalle.stream import Stream


class Row(Pattern):
    """The last C + 1 codes in raster order, including the code itself. The oldest is the one
    directly above.

    The window slides across row ends (paper appendix B: 5 codes on a grid of 4 x 4).
    """

    name = "row"

    def sees(self, query: Tensor, key: Tensor, stream: Stream) -> Tensor:
        return query - key <= stream.columns

    def blocks(self, stream: Stream) -> Blocks:
        return sliding_blocks(stream, stream.columns)
