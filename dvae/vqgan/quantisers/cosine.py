"""Vector quantisation by angle, in few dimensions (ViT-VQGAN, arXiv 2110.04627; LlamaGen)."""

from dataclasses import dataclass
from typing import Annotated

import torch
from torch import Tensor
from torch.nn import functional as F

from dalle_base.common.bounds import Bounds
from dvae.vqgan.quantisers.base import (
    Codebook,
    CodebookOptions,
    Quantised,
    nearest,
    rows,
    straight_through,
)


class Cosine(Codebook):
    """The code of the smallest angle: vectors and codes are brought to length 1 before all else."""

    options: "Cosine.Options"

    @dataclass
    class Options(CodebookOptions):
        """Its options."""

        width: Annotated[int, Bounds(2, 2**16)] = 8
        """Values of a code's vector, few (8 to 32), whatever model.network.code_width says."""

    def __init__(self, codebook_size: int, width: int, options: "Cosine.Options") -> None:
        super().__init__(codebook_size, options.width, options)

    def codes(self, vectors: Tensor) -> Tensor:
        found = nearest(rows(F.normalize(vectors, dim=1)), F.normalize(self.codebook, dim=1))
        return found.view(len(vectors), *vectors.shape[2:])

    def vectors(self, codes: Tensor) -> Tensor:
        return F.normalize(super().vectors(codes), dim=1)

    def relax(self, latents: Tensor) -> tuple[Tensor, Tensor]:
        return super().relax(F.normalize(latents, dim=1))

    def unit(self) -> float:
        """Return a value of a vector of length 1, root mean square."""
        return self.width**-0.5

    @torch.no_grad()
    def limit(self, latents: Tensor) -> None:
        """Bring each vector to length 1."""
        latents.copy_(F.normalize(latents, dim=1))

    def forward(self, vectors: Tensor) -> Quantised:
        vectors = F.normalize(vectors, dim=1)
        flat = rows(vectors)
        if self.learns:
            self.replace_dead(flat)
        found = nearest(flat, F.normalize(self.codebook, dim=1))
        if self.learns:
            self.count(found)
        codes = found.view(len(vectors), *vectors.shape[2:])
        chosen = self.vectors(codes)
        return Quantised(
            straight_through(vectors, chosen),
            codes,
            commitment=(vectors - chosen.detach()).square().mean(),
            codebook=(vectors.detach() - chosen).square().mean(),
            regulariser=vectors.new_zeros(()),
        )
