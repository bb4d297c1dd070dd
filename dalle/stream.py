"""Who stands where: the one sequence of text and image tokens (paper section 2.2)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from dalle_base.common.errors import UserError

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Stream:
    """The layout of a stream: T text tokens, then an R x C grid of image codes in raster order.

    The model reads [BOS, text 1..T, image 1..RC-1] and is asked for [text 1..T, image 1..RC], so a
    stream has T + RC positions. BOS stands at position 0, text token t at position t, the image
    code with 0-based raster index j at position T + 1 + j. Positions 0..T-1 predict text and
    positions T..T+RC-1 predict image codes; the last code is only ever predicted, never read.

    The methods take integer tensors of positions of any shape, and work element by element.
    """

    text_length: int
    rows: int
    columns: int

    def __post_init__(self) -> None:
        for name in ("text_length", "rows", "columns"):
            if getattr(self, name) < 1:
                raise UserError(f"{name} is {getattr(self, name)}: write a number of at least 1")

    @property
    def image_length(self) -> int:
        """Codes in an image: R * C."""
        return self.rows * self.columns

    @property
    def length(self) -> int:
        """Positions in the stream: T + R * C."""
        return self.text_length + self.image_length

    @property
    def text_inputs(self) -> int:
        """Positions that read text: BOS and the T text tokens. The first image code comes next."""
        return self.text_length + 1

    def is_text(self, position: Tensor) -> Tensor:
        """Whether a position reads text (BOS counts as text)."""
        return position < self.text_inputs

    def raster(self, position: Tensor) -> Tensor:
        """The 0-based raster index of the code read at a position; negative for text positions."""
        return position - self.text_inputs

    def row(self, index: Tensor) -> Tensor:
        """The grid row of a raster index."""
        return index // self.columns

    def column(self, index: Tensor) -> Tensor:
        """The grid column of a raster index."""
        return index % self.columns
