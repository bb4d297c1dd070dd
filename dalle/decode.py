"""One decoding step after another: prefill, then a code at a time (paper section 2.6)."""

from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import Tensor

from dalle.cache import Cache, PatternLayerCache, Slots, attend_step
from dalle.transformer import Transformer

Step = Callable[[Tensor, Tensor, Sequence[Slots]], Tensor]
"""`decode_step` for one model, as it is (`eager_step`) or compiled (`dalle.compiled`)."""


def prefill(
    model: Transformer, text: Tensor, prefix: Tensor | None = None, cache: Cache | None = None
) -> tuple[Tensor, Cache]:
    """Read captions, and the codes that are given, in one pass.

    `text` is [B, T], `prefix` [B, n] with n < RC. Returns the logits of the next code, [B, K], and
    the cache (by default the model's own kind), which holds what was read.
    """
    x = model.embed_text(text)
    if prefix is not None:
        x = torch.cat([x, model.embed_codes(prefix)], dim=1)
    cache = cache or model.new_cache()
    hidden = model.hidden(x, [layer.attend for layer in cache.layers])
    return model.image_head(hidden[:, -1]), cache


def decode_one(model: Transformer, codes: Tensor, cache: Cache) -> Tensor:
    """Read one more code for each row, `codes` [B]; return the logits of the next one, [B, K].

    The cache, of any kind, knows the position, and holds this one too afterwards.
    """
    index = torch.tensor([cache.length - model.stream.text_inputs], device=codes.device)
    x = model.embed_codes(codes[:, None], index)
    return model.image_head(model.hidden(x, [layer.attend for layer in cache.layers])[:, -1])


def decode_step(
    model: Transformer, codes: Tensor, index: Tensor, stores: Sequence[Slots]
) -> Tensor:
    """`decode_one` over the tensors of a cache, which has one shape for every code of an image.

    `codes` [N] have raster index `index` [1]; `stores` are of each layer. Nothing depends on values
    that Python would have to look at, so `compile_step` makes one program of it.
    """
    attends = [
        partial(attend_step, model.cache_plan(pattern), store, index)
        for pattern, store in zip(model.patterns, stores, strict=True)
    ]
    x = model.embed_codes(codes[:, None], index)
    return model.image_head(model.hidden(x, attends)[:, -1])


def slots_of(cache: Cache) -> list[Slots]:
    """The tensors of a cache that has been filled by `prefill`."""
    stores = [layer.store for layer in cache.layers if isinstance(layer, PatternLayerCache)]
    return [store for store in stores if store is not None]


def eager_step(model: Transformer) -> Step:
    """Return `decode_step` for a model, as it is."""
    return partial(decode_step, model)
