"""Convolutional attention."""

from torch import Tensor

from dalle.patterns.base import Blocks, Pattern, PatternOptions, sliding_blocks
from dalle.stream import Stream
from training.errors import UserError


class Conv(Pattern):
    """The causal half of a k x k window around it, with wrap-around at the grid's sides.

    The window is one of raster offsets: dr rows up and dc columns across is dr * C - dc codes back,
    for 0 <= dr <= k // 2 and |dc| <= k // 2, as far as that is not ahead. So where the window
    reaches over a side, it goes on at the other side, one row up or down (paper appendix B).
    """

    name = "conv"

    def __init__(self, options: PatternOptions | None = None) -> None:
        super().__init__(options)
        kernel = self.options.conv_kernel
        if kernel < 1 or kernel % 2 == 0:
            raise UserError(f"conv_kernel is {kernel}: write an odd number, such as the paper's 11")

    def sees(self, query: Tensor, key: Tensor, stream: Stream) -> Tensor:
        reach = self.options.conv_kernel // 2
        back = query - key
        # On a grid narrower than the window an offset is reached from several rows. The row whose
        # own offset is nearest decides: if it does not reach, none does.
        nearest = (2 * back + stream.columns) // (2 * stream.columns)
        across = back - nearest.clamp(0, reach) * stream.columns
        return across.abs() <= reach

    def blocks(self, stream: Stream) -> Blocks:
        return sliding_blocks(stream, self.options.conv_kernel // 2 * (stream.columns + 1))
