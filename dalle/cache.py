"""Keys and values kept between decoding steps, as explicit tensors that are passed in.

A caption's text is stored once for all of its candidates, and of each candidate's codes only what
its layers' patterns will still read (`dalle.cache_plan`). Shapes: B captions, N candidates,
H heads, D head width.
"""

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from dalle.cache_plan import CachePlan


class Slots(NamedTuple):
    """One layer's keys and values: tensors alone, so that a step can be compiled over them."""

    text_keys: Tensor
    """Of each caption's text: [B, H, T+1, D], as are `text_values`."""
    text_values: Tensor
    keys: Tensor
    """Of each candidate's codes: [N, H, slots, D], as are `values`; a caption's are side by side.
    Tensors of their own: a compiler would copy the whole of one that it writes to a part of."""
    values: Tensor

    def repeat(self, candidates: int) -> "Slots":
        """The same for so many candidates of each row, side by side; these stay as they are.

        The text is shared, never copied.
        """
        keys, values = (x.repeat_interleave(candidates, dim=0) for x in (self.keys, self.values))
        return Slots(self.text_keys, self.text_values, keys, values)


def attend_step(
    plan: CachePlan, store: Slots, index: Tensor, q: Tensor, k: Tensor, v: Tensor
) -> Tensor:
    """Write the code with raster index `index` [1] to its slot; return its attention.

    `q`, `k`, `v` and the result are [N, H, 1, D]. The text is read once for all candidates of a
    caption, as one product.
    """
    rows, heads, _, width = q.shape
    captions, _, text, _ = store.text_keys.shape
    keys, values = store.keys, store.values
    slot = plan.slots.index_select(0, index)
    keys.index_copy_(2, slot, k)
    values.index_copy_(2, slot, v)
    if plan.reads is not None:
        places = plan.reads.index_select(0, index)[0]
        keys, values = keys.index_select(2, places), values.index_select(2, places)
    q = q * width**-0.5
    shared = (captions, rows // captions, heads, width)
    of_text = q.view(shared).transpose(1, 2) @ store.text_keys.mT  # [B, H, candidates, T+1]
    of_text = of_text.transpose(1, 2).reshape(rows, heads, 1, text)
    of_codes = q @ keys.mT + plan.bias.index_select(0, index).to(q.dtype)
    share = torch.cat([of_text, of_codes], dim=-1).softmax(dim=-1)
    to_text = share[..., :text].view(*shared[:3], text).transpose(1, 2)
    from_text = (to_text @ store.text_values).transpose(1, 2).reshape(q.shape)
    return from_text + share[..., text:] @ values


class Prefill:
    """One layer's attention over the text, and any codes given with it; fills the layer's slots."""

    def __init__(self, plan: CachePlan) -> None:
        self.plan = plan
        self.slots: Slots | None = None

    def __call__(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """The attention of the stream's first n positions to one another, [B, H, n, D] each.

        Raises `ValueError` unless all of the text is among them.
        """
        rows, heads, n, width = k.shape
        text, plan = self.plan.text, self.plan
        if n < text:
            raise ValueError(f"the first read takes all {text} text positions, not {n}")
        last = {slot: code for code, slot in enumerate(plan.order[: n - text])}
        given = [text + code for code in last.values()]
        # Zeros, for a slot that nothing was written to is read with weight 0.
        stores = [k.new_zeros(rows, heads, plan.size, width) for _ in range(2)]
        for store, both in zip(stores, (k, v), strict=True):
            store[:, :, list(last)] = both[:, :, given]
        # Copies: a view would hold on to all of the layer's queries, keys and values.
        self.slots = Slots(k[:, :, :text].clone(), v[:, :, :text].clone(), *stores)
        return F.scaled_dot_product_attention(q, k, v, attn_mask=plan.mask[:n, :n])
