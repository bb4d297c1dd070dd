"""Vector quantisation whose codes are running means of their vectors (arXiv 1711.00937, A.1)."""

from dataclasses import dataclass

import torch
from torch import Tensor

from dalle_base.common.bounds import Share, ShareBelow1
from dvae.vqgan.quantisers.base import (
    Codebook,
    CodebookOptions,
    Quantised,
    nearest,
    over_processes,
    rows,
    straight_through,
)


class EMA(Codebook):
    """The nearest vector of a table of averages; straight-through for the encoder.

    A code e is the average of the vectors z that were nearest to it: with c of a batch's n vectors
    and their sum s, its share becomes u ← d·u + (1 − d)·c/n, and e ← e + (1 − d)·(s − c·e)/(n·ũ),
    where ũ is u after Laplace smoothing. Without smoothing that is the usual quotient of averaged
    sum and averaged count, with no sum to keep; and a code without vectors stays where it is.
    """

    options: "EMA.Options"

    @dataclass
    class Options(CodebookOptions):
        """Its options."""

        dead_below: ShareBelow1 = 0.1
        smoothing: Share = 1e-5
        """Laplace smoothing ε: what is added to each code's share before dividing by it."""

    def __init__(self, codebook_size: int, width: int, options: "EMA.Options") -> None:
        super().__init__(codebook_size, width, options)
        self.codebook.requires_grad_(False)

    def forward(self, vectors: Tensor) -> Quantised:
        flat = rows(vectors)
        if self.learns:
            self.replace_dead(flat)
        found = nearest(flat, self.codebook)
        codes = found.view(len(vectors), *vectors.shape[2:])
        chosen = self.vectors(codes)
        if self.learns:
            self._follow(flat, found)
        zero = vectors.new_zeros(())
        return Quantised(
            straight_through(vectors, chosen),
            codes,
            commitment=(vectors - chosen).square().mean(),
            codebook=zero,
            regulariser=zero,
        )

    @torch.no_grad()
    def _follow(self, flat: Tensor, found: Tensor) -> None:
        counts, total = self.count(found)
        sums = over_processes(torch.zeros_like(self.codebook).index_add_(0, found, flat))
        smooth, size = self.options.smoothing, self.codebook_size
        share = (self.usage + smooth) / (1 + size * smooth)
        step = (sums - counts[:, None] * self.codebook) / (total * share[:, None])
        self.codebook.add_(step, alpha=1 - self.options.decay)
