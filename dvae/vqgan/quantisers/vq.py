"""Vector quantisation as in VQ-VAE and VQGAN (arXiv 1711.00937, 2012.09841)."""

from dataclasses import dataclass

from torch import Tensor

from dalle_base.common.bounds import Above0, Weight
from dvae.vqgan.quantisers.base import (
    Codebook,
    CodebookOptions,
    Quantised,
    nearest,
    rows,
    straight_through,
)


class VQ(Codebook):
    """The nearest vector of a table that learns by gradient; straight-through for the encoder."""

    options: "VQ.Options"

    @dataclass
    class Options(CodebookOptions):
        """Its options."""

        entropy_weight: Weight = 0.0
        """Weight of the mean entropy (nats) of soft assignments less `entropy_spread` times the
        entropy of their batch mean: sure codes, all of them in use."""
        entropy_spread: Weight = 1.0
        """How much the batch mean's entropy counts."""
        entropy_temperature: Above0 = 0.01
        """What squared distances are divided by in the soft assignments."""

    def __init__(self, codebook_size: int, width: int, options: "VQ.Options") -> None:
        super().__init__(codebook_size, width, options)

    def forward(self, vectors: Tensor) -> Quantised:
        flat = rows(vectors)
        if self.learns:
            self.replace_dead(flat)
        found = nearest(flat, self.codebook)
        if self.learns:
            self.count(found)
        codes = found.view(len(vectors), *vectors.shape[2:])
        chosen = self.vectors(codes)
        entropy, metrics = vectors.new_zeros(()), {}
        if self.options.entropy_weight:
            entropy = self._entropy(flat)
            metrics = {"assignment_entropy": entropy.detach()}
        return Quantised(
            straight_through(vectors, chosen),
            codes,
            commitment=(vectors - chosen.detach()).square().mean(),
            codebook=(vectors.detach() - chosen).square().mean(),
            regulariser=self.options.entropy_weight * entropy,
            metrics=metrics,
        )

    def _entropy(self, flat: Tensor) -> Tensor:
        near = 2 * (flat @ self.codebook.T) - self.codebook.square().sum(dim=1)
        log_p = (near / self.options.entropy_temperature).log_softmax(dim=1)
        p = log_p.exp()
        mean = p.mean(dim=0)
        spread = -(mean * mean.clamp_min(1e-10).log()).sum()
        return -(p * log_p).sum(dim=1).mean() - self.options.entropy_spread * spread
