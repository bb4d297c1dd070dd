"""Cached decoding as plainly as it can be written: the baseline of the sampling benchmark.

Every position is stored for every row of the batch, the text of a caption once for each of its
candidates, and what a pattern does not allow is masked on reading. `dalle.cache` is tested against
it.
"""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from dalle.transformer import Transformer


class DenseCache:
    """One layer's keys and values of the stream so far; a layer attends by calling it."""

    def __init__(self, mask: Tensor) -> None:
        """`mask` is bool [T+RC, T+RC], rows are queries."""
        self.mask = mask
        self.length = 0
        """Stream positions read so far."""
        self.store: Tensor | None = None
        """Keys and values, [2, B, H, T+RC, D]: allocated once, when the first are known."""

    def __call__(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Store the stream's next n positions; return their attention. [B, H, n, D] each."""
        if self.store is None:
            rows, heads, _, width = k.shape
            self.store = k.new_empty(2, rows, heads, len(self.mask), width)
        start, stop = self.length, self.length + k.shape[2]
        self.store[0, :, :, start:stop] = k
        self.store[1, :, :, start:stop] = v
        self.length = stop
        keys, values = self.store[:, :, :, :stop]
        mask = self.mask[start:stop, :stop]
        return F.scaled_dot_product_attention(q, keys, values, attn_mask=mask)

    def repeat(self, candidates: int) -> "DenseCache":
        """A copy in which each row goes on as so many, side by side; this one stays as it is."""
        copy = DenseCache(self.mask)
        copy.length = self.length
        if self.store is not None:
            copy.store = self.store.repeat_interleave(candidates, dim=1)
        return copy


def prefill_dense(
    model: Transformer, tokens: Tensor, prefix: Tensor | None = None
) -> tuple[Tensor, list[DenseCache]]:
    """Read captions and the codes in front: `dalle.generate.prefill` with dense caches.

    Args:
        model: the transformer.
        tokens: [B, T].
        prefix: [B, n] codes, n < RC.

    Returns:
        The logits of the next code, [B, K], and each layer's cache, which holds what was read.
    """
    x = model.embed_text(tokens)
    if prefix is not None:
        x = torch.cat([x, model.embed_codes(prefix)], dim=1)
    caches = [DenseCache(model.mask(pattern)) for pattern in model.patterns]
    return model.image_head(model.hidden(x, caches)[:, -1]), caches


def decode_dense(model: Transformer, codes: Tensor, caches: Sequence[DenseCache]) -> Tensor:
    """Read one more code for each row, `codes` [N]; return the logits of the next one, [N, K]."""
    index = torch.tensor([caches[0].length - model.stream.text_inputs], device=codes.device)
    x = model.embed_codes(codes[:, None], index)
    return model.image_head(model.hidden(x, caches)[:, -1])
