"""How well a transformer predicts held-out pairs: nats of each code, and of each text token."""

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F
from tqdm import tqdm

from dalle.generate import evaluating
from dalle.transformer import Transformer
from dalle_base.data.text import PADDING

MOST_LOGITS = 2**24
"""Logits of codes that exist at a time: 64 MiB in float32."""


class Nats(NamedTuple):
    """Negative log-likelihoods of n pairs, in nats, on the CPU in float64."""

    text: Tensor
    """[n], the sum over each caption's tokens."""
    text_tokens: Tensor
    """[n], how many these are: padding is none."""
    image: Tensor
    """[n, RC], of each code in raster order."""


@torch.inference_mode()
def measure_nats(model: Transformer, tokens: Tensor, codes: Tensor) -> Nats:
    """Return the nats of token ids [n, T] and codes [n, RC]."""
    device, parts = model.start.device, []
    together = max(1, min(64, MOST_LOGITS // (codes.shape[1] * model.config.image_vocab)))
    starts = tqdm(range(0, len(tokens), together), "held-out losses", dynamic_ncols=True)
    with evaluating(model):
        for first in starts:
            part = slice(first, first + together)
            text, image = tokens[part].to(device), codes[part].to(device)
            text_logits, image_logits = model.logits(text, image)
            parts.append(
                (
                    _cross_entropy(text_logits, text).sum(dim=1),
                    (text != PADDING).sum(dim=1),
                    _cross_entropy(image_logits, image),
                )
            )
    return Nats(*(torch.cat(each).double().cpu() for each in zip(*parts, strict=True)))


def _cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    """Return the nats of targets [B, n] under logits [B, n, K], 0 for padding."""
    nats = F.cross_entropy(
        logits.flatten(0, 1).float(), targets.flatten(), ignore_index=PADDING, reduction="none"
    )
    return nats.view(targets.shape)
