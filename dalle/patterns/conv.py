"""Convolutional attention."""

from dataclasses import dataclass
from typing import Annotated

from torch import Tensor

from dalle.patterns.base import Blocks, Pattern, sliding_blocks
from dalle.stream import Stream
from dalle_base.common.bounds import Bounds
from dalle_base.common.errors import UserError


class Conv(Pattern):
    """The causal half of a k x k window centred on the code, with wrap-around at the sides of the
    grid.

    The window is a set of raster offsets: dr rows up and dc columns across is dr * C - dc codes
    back, for 0 <= dr <= k // 2 and |dc| <= k // 2, unless that lies ahead. Where the window crosses
    a side, it continues on the other side, one row up or down (paper appendix B).
    """

    name = "conv"
    options: "Conv.Options"

    @dataclass(frozen=True)
    class Options:
        """The window."""

        kernel: Annotated[int, Bounds(1, 2047)] = 11
        """Side of the window of codes: odd."""

        def validate(self) -> None:
            """Raise `UserError` on an even number."""
            if self.kernel % 2 == 0:
                raise UserError(
                    f"kernel is {self.kernel}: write an odd number, such as the paper's 11"
                )

    def sees(self, query: Tensor, key: Tensor, stream: Stream) -> Tensor:
        reach = self.options.kernel // 2
        back = query - key
        # On a grid narrower than the window an offset is reached from several rows. The row whose
        # own offset is nearest decides: if it does not reach, none does.
        nearest = (2 * back + stream.columns) // (2 * stream.columns)
        across = back - nearest.clamp(0, reach) * stream.columns
        return across.abs() <= reach

    def blocks(self, stream: Stream) -> Blocks:
        return sliding_blocks(stream, self.options.kernel // 2 * (stream.columns + 1))
