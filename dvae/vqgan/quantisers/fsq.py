"""Finite scalar quantisation (arXiv 2309.15505): each value is rounded to one of a few levels."""

import math
from dataclasses import dataclass, field
from typing import Annotated

import torch
from torch import Tensor

from dalle_base.common.bounds import Bounds
from dalle_base.common.errors import UserError
from dvae.vqgan.quantisers.base import Quantised, Quantiser, straight_through

REACH = 1.001
"""How far beyond the outermost levels tanh reaches, so that it need not saturate to get there."""


class FSQ(Quantiser):
    """Codes are the points of a small lattice: nothing to learn, no loss, no dead codes."""

    levels: Tensor
    places: Tensor

    @dataclass
    class Options:
        """Its options."""

        levels: list[Annotated[int, Bounds(2, 2**16)]] = field(default_factory=lambda: [8, 5, 5, 5])
        """Levels of each value of a vector; their product is the codebook's size. As many values
        as levels, whatever model.network.code_width says."""

        def validate(self) -> None:
            """Raise `UserError` on impossible values."""
            if not 1 <= len(self.levels) <= 24:
                raise UserError(
                    f"levels of the quantiser fsq are {self.levels}: write 1 to 24 numbers"
                )

    def __init__(self, codebook_size: int, width: int, options: "FSQ.Options") -> None:
        levels, product = options.levels, math.prod(options.levels)
        if product != codebook_size:
            raise UserError(
                f"model.codebook_size is {codebook_size}, where the quantiser fsq with levels "
                f"{levels} has {product} codes: write model.codebook_size={product}, or change "
                "model.quantiser_options.fsq.levels"
            )
        super().__init__(codebook_size, len(levels), options)
        # Stored, since two tokenizers with other levels are two tokenizers.
        self.register_buffer("levels", torch.tensor(levels))
        places = [math.prod(levels[:i]) for i in range(len(levels))]
        self.register_buffer("places", torch.tensor(places), persistent=False)

    def codes(self, vectors: Tensor) -> Tensor:
        return self._number(self._bounded(vectors).round().long())

    def vectors(self, codes: Tensor) -> Tensor:
        steps = (codes[..., None] // self.places) % self.levels - self.levels // 2
        return (steps / (self.levels // 2)).movedim(-1, 1)

    def latents(self, codes: Tensor) -> Tensor:
        half, offset = self._range()
        steps = self.vectors(codes) * self._of_grid(self.levels // 2)
        return ((steps + offset) / half).atanh() - (offset / half).atanh()

    def relax(self, latents: Tensor) -> tuple[Tensor, Tensor]:
        bounded = self._bounded(latents)
        steps = bounded.round()
        scale = self._of_grid(self.levels // 2)
        return straight_through(bounded, steps) / scale, self._number(steps.long())

    def forward(self, vectors: Tensor) -> Quantised:
        drawn, codes = self.relax(vectors)
        zero = vectors.new_zeros(())
        return Quantised(
            drawn,
            codes,
            commitment=zero,
            codebook=zero,
            regulariser=zero,
        )

    def _bounded(self, vectors: Tensor) -> Tensor:
        """Return values squeezed so that rounding gives each its number of levels, about 0."""
        half, offset = self._range()
        return (vectors + (offset / half).atanh()).tanh() * half - offset

    def _range(self) -> tuple[Tensor, Tensor]:
        """Return half of what tanh is stretched to, and how far its middle lies below 0."""
        levels = self._of_grid(self.levels)
        # An even number of levels has one more below 0 than above.
        return (levels - 1) / 2 * REACH, (levels % 2 == 0) * 0.5

    def _number(self, steps: Tensor) -> Tensor:
        digits = steps + self._of_grid(self.levels // 2)
        return (digits * self._of_grid(self.places)).sum(dim=1)

    @staticmethod
    def _of_grid(values: Tensor) -> Tensor:
        return values[:, None, None]
