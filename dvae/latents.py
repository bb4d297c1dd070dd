"""Latents of tokenizers whose codes are choices among K: logits, which an optimiser may move."""

import math
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from dvae.objective import reconstruction_of
from dvae.tokenizer import Drawn, ImageTokenizer


def logits_of(codes: Tensor, codebook_size: int) -> Tensor:
    """Return logits [B, K, R, C] that give each position's code a probability of one half, so that
    the gradient of the softmax is largest.
    """
    chosen = F.one_hot(codes, codebook_size).movedim(-1, 1)
    return chosen.to(torch.get_default_dtype()) * math.log(max(2, codebook_size - 1))


def hard_softmax(logits: Tensor) -> tuple[Tensor, Tensor]:
    """Return the largest logits' one-hot vectors [B, K, R, C], with the gradient of the softmax,
    and the codes [B, R, C].
    """
    codes = logits.argmax(dim=1)
    hard = F.one_hot(codes, logits.shape[1]).movedim(-1, 1)
    soft = logits.softmax(dim=1)
    return hard.to(soft.dtype) + (soft - soft.detach()), codes


class LatentLogits(ImageTokenizer):
    """A tokenizer whose decoder reads one-hot codes: its latents are their logits [B, K, R, C]."""

    decoder: Any
    """Its network: one-hot codes to maps, of which the first three are μ."""

    def latents(self, codes: Tensor) -> Tensor:
        """Return logits whose largest ones are these codes."""
        return logits_of(codes, self.vocab_size)

    def draw_latents(self, latents: Tensor) -> Drawn:
        """Draw the codes of the largest logits, with the gradient of the softmax."""
        one_hots, codes = hard_softmax(latents)
        maps = self.decoder(one_hots)
        return Drawn(reconstruction_of(maps[:, :3].float()), codes)
