"""The loss over both parts of the stream (section 2.2), without ever holding all of its logits."""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from dalle.config import TransformerConfig
from dalle_base.data.text import PADDING
from dalle_base.training import processes

MOST_LOGITS = 2**21
"""Logits that may exist at a time: 8 MiB in float32, and some five times that in the backward pass,
which meets them while all activations are held. Larger chunks were not faster."""


class Losses(NamedTuple):
    """Cross-entropies in nats a token, scalars; `total` is their weighted sum."""

    total: Tensor
    text: Tensor
    image: Tensor


def exchange(codes: Tensor, others: Tensor, most: float) -> Tensor:
    """Codes [B, RC], a share of each row's (drawn from 0 to `most`) taken from `others` instead."""
    shares = torch.rand(len(codes), 1, device=codes.device) * most
    exchanged = torch.rand(codes.shape, device=codes.device) < shares
    return torch.where(exchanged, others, codes)


def sample_heads(head: nn.Linear, h: Tensor, most_logits: int = MOST_LOGITS) -> Tensor:
    """A code for each of h [B, n, d], sampled from the softmax of `head(h)`: [B, n]."""
    parts = h.flatten(0, 1).split(max(1, most_logits // head.out_features))
    sampled = [head(part).float().softmax(dim=-1).multinomial(1)[:, 0] for part in parts]
    return torch.cat(sampled).view(h.shape[:2])


def spoiled(
    codes: Tensor,
    config: TransformerConfig,
    head: nn.Linear,
    outputs: Callable[[], tuple[Tensor, Tensor]],
) -> Tensor:
    """Codes [B, RC] as training reads them: some of another image, some that the model sampled.

    Args:
        codes: the true ones.
        config: says how many of them are exchanged.
        head: of the image.
        outputs: computes what the two heads read of the true codes.
    """
    read = codes
    if config.code_noise:
        read = exchange(read, codes.roll(1, dims=0), config.code_noise)
    if config.sampled_codes:
        with torch.no_grad():
            read = exchange(read, sample_heads(head, outputs()[1]), config.sampled_codes)
    return read


Part = tuple[nn.Linear, Tensor, Tensor]
"""A head, what it reads [B, n, d], and its targets [B, n]."""


def text_tokens_of(tokens: Tensor, parts: int) -> Tensor:
    """How many text tokens each of a batch's parts has on average, over all processes: a scalar.

    Parts of a batch differ in this; divided by it, their losses' mean is that of the whole batch.
    All processes call this with their batch's `tokens` [B, T].
    """
    # Without the clamp a batch of nothing but padding would give 0 / 0.
    return processes.mean((tokens != PADDING).sum().float()).clamp(min=1) / parts


def stream_losses(
    text: Part,
    image: Part,
    text_weight: float,
    smoothing: float = 0.0,
    z_weight: float = 0.0,
    text_tokens: Tensor | None = None,
) -> Losses:
    """The loss of section 2.2: each part a mean over its own tokens, then weighted.

    Args:
        text: the text head, its inputs [B, T, d], and tokens [B, T] with `PADDING` where there is
            no text, which is not counted.
        image: the image head, its inputs [B, RC, d], and codes [B, RC].
        text_weight: weight of the text part; the image part has the rest of 1.
        smoothing: share of each code's target that is spread over all codes.
        z_weight: weight of the squared logarithm of each softmax's denominator, in both parts.
        text_tokens: what the text loss is divided by, where this is a part of a larger batch
            (`text_tokens_of`); by default the number of its own tokens.
    """
    head, h, tokens = text
    text_sum = summed_cross_entropy(head, h.flatten(0, 1), tokens.flatten(), z_weight=z_weight)
    if text_tokens is None:
        text_tokens = (tokens != PADDING).sum().clamp(min=1)
    text_loss = text_sum / text_tokens
    head, h, codes = image
    image_sum = summed_cross_entropy(head, h.flatten(0, 1), codes.flatten(), smoothing, z_weight)
    image_loss = image_sum / codes.numel()
    total = text_weight * text_loss + (1 - text_weight) * image_loss
    return Losses(total, text_loss, image_loss)


def summed_cross_entropy(
    head: nn.Linear,
    h: Tensor,
    targets: Tensor,
    smoothing: float = 0.0,
    z_weight: float = 0.0,
    most_logits: int = MOST_LOGITS,
) -> Tensor:
    """The sum of the cross-entropies of `head(h)`, `h` [n, d], and `targets` [n] but `PADDING`.

    With `z_weight`, it has as many squared logarithms of the softmax's denominator on top (PaLM,
    2204.02311, section 5).

    Where n logits of the vocabulary are more than `most_logits`, they are computed in chunks of
    rows, and once more in the backward pass, so that only one chunk of them exists at a time.
    """
    rows = max(1, most_logits // head.out_features)
    if len(h) <= rows:
        return _cross_entropy(head, h, targets, smoothing, z_weight)
    total = h.new_zeros((), dtype=torch.float32)
    for part in zip(h.split(rows), targets.split(rows), strict=True):
        options = smoothing, z_weight
        total = total + checkpoint(
            _cross_entropy, head, *part, *options, use_reentrant=False, preserve_rng_state=False
        )
    return total


def _cross_entropy(
    head: nn.Linear, h: Tensor, targets: Tensor, smoothing: float, z_weight: float
) -> Tensor:
    logits = head(h).float()
    total = F.cross_entropy(
        logits, targets, ignore_index=PADDING, reduction="sum", label_smoothing=smoothing
    )
    if z_weight:
        squares = logits.logsumexp(dim=-1).square()
        total = total + z_weight * squares.masked_fill(targets == PADDING, 0.0).sum()
    return total
