"""Codes by Gumbel-softmax over logits, as in taming-transformers' GumbelVQ."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from dalle_base.common.bounds import Above0, Weight
from dvae.latents import hard_softmax, logits_of
from dvae.objective import gumbel_softmax
from dvae.vqgan.quantisers.base import Quantised, Quantiser


class Gumbel(Quantiser):
    """A 1x1 convolution gives logits, the largest is the code, and a table has its vector."""

    tables = ("codebook",)

    @dataclass
    class Options:
        """Its options."""

        temperature: Above0 = 1.0
        """Temperature of the samples in training, which the decoder sees one-hot."""
        kl_weight: Weight = 1e-8
        """Weight of the KL (nats at each position) to equal use of all codes."""

    def __init__(self, codebook_size: int, width: int, options: "Gumbel.Options") -> None:
        super().__init__(codebook_size, width, options)
        self.project = nn.Conv2d(width, codebook_size, 1)
        self.codebook = nn.Parameter(torch.randn(codebook_size, width))

    def code_state(self) -> dict[str, Tensor]:
        return self.project.state_dict(prefix="project.")

    def codes(self, vectors: Tensor) -> Tensor:
        return self.project(vectors).argmax(dim=1)

    def vectors(self, codes: Tensor) -> Tensor:
        return nn.functional.embedding(codes, self.codebook).movedim(-1, 1)

    def latents(self, codes: Tensor) -> Tensor:
        """Return logits [B, K, R, C]."""
        return logits_of(codes, self.codebook_size)

    def relax(self, latents: Tensor) -> tuple[Tensor, Tensor]:
        """Return the vectors of the largest logits [B, K, R, C], and the codes."""
        one_hots, codes = hard_softmax(latents)
        return torch.einsum("bkrc,kd->bdrc", one_hots, self.codebook), codes

    def forward(self, vectors: Tensor) -> Quantised:
        logits = self.project(vectors)
        sample = gumbel_softmax(logits, self.options.temperature, straight_through=True)
        log_q = logits.log_softmax(dim=1)
        kl = (log_q.exp() * log_q).sum(dim=1).mean() + math.log(self.codebook_size)
        zero = vectors.new_zeros(())
        return Quantised(
            torch.einsum("bkrc,kd->bdrc", sample, self.codebook),
            sample.argmax(dim=1),
            commitment=zero,
            codebook=zero,
            regulariser=self.options.kl_weight * kl,
            metrics={"code_kl": kl.detach()},
        )
