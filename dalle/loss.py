"""The loss over both parts of the stream (section 2.2), without ever holding all of its logits."""

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from dalle.text import PADDING

MOST_LOGITS = 2**21
"""Logits that may exist at a time: 8 MiB in float32, and some five times that in the backward pass,
which meets them while all activations are held. Larger chunks were not faster."""


class Losses(NamedTuple):
    """Cross-entropies in nats a token, scalars; `total` is their weighted sum."""

    total: Tensor
    text: Tensor
    image: Tensor


def stream_losses(
    text_head: nn.Linear,
    h_text: Tensor,
    text: Tensor,
    image_head: nn.Linear,
    h_image: Tensor,
    codes: Tensor,
    text_weight: float,
) -> Losses:
    """The loss of section 2.2: each part a mean over its own tokens, then weighted.

    The heads read `h_text` [B, T, d] and `h_image` [B, RC, d]. `text` [B, T] has `PADDING` where
    there is none, which is not counted; `codes` are [B, RC]. The image part weighs
    1 - `text_weight`.
    """
    text_sum = summed_cross_entropy(text_head, h_text.flatten(0, 1), text.flatten())
    # Without the clamp a batch of nothing but padding would give 0 / 0.
    text_loss = text_sum / (text != PADDING).sum().clamp(min=1)
    image_sum = summed_cross_entropy(image_head, h_image.flatten(0, 1), codes.flatten())
    image_loss = image_sum / codes.numel()
    total = text_weight * text_loss + (1 - text_weight) * image_loss
    return Losses(total, text_loss, image_loss)


def summed_cross_entropy(
    head: nn.Linear, h: Tensor, targets: Tensor, most_logits: int = MOST_LOGITS
) -> Tensor:
    """The sum of the cross-entropies of `head(h)`, `h` [n, d], and `targets` [n] but `PADDING`.

    Where n logits of the vocabulary are more than `most_logits`, they are computed in chunks of
    rows, and once more in the backward pass, so that only one chunk of them exists at a time.
    """
    rows = max(1, most_logits // head.out_features)
    if len(h) <= rows:
        return _cross_entropy(head, h, targets)
    total = h.new_zeros((), dtype=torch.float32)
    for part in zip(h.split(rows), targets.split(rows), strict=True):
        total = total + checkpoint(
            _cross_entropy, head, *part, use_reentrant=False, preserve_rng_state=False
        )
    return total


def _cross_entropy(head: nn.Linear, h: Tensor, targets: Tensor) -> Tensor:
    return F.cross_entropy(head(h).float(), targets, ignore_index=PADDING, reduction="sum")
