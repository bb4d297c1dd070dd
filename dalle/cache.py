"""Keys and values kept between decoding steps, as explicit objects that are passed in.

A caption's text is stored once for all of its candidates, and of each candidate's codes only what
its layers' patterns will still read. Shapes: B captions, N candidates, H heads, D head width.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, Self

import torch
from torch import Tensor
from torch.nn import functional as F


class LayerCache(ABC):
    """What one layer remembers of the stream so far.

    A layer only ever calls `attend`, so how things are stored is the cache's own affair.
    """

    @property
    @abstractmethod
    def length(self) -> int:
        """Stream positions read so far: the next one's number."""

    @property
    @abstractmethod
    def nbytes(self) -> int:
        """Bytes allocated so far."""

    @abstractmethod
    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Read the stream's next n positions, and return their attention: [B, H, n, D] each."""

    @abstractmethod
    def repeat(self, candidates: int) -> Self:
        """A new cache in which each row goes on as so many, side by side; this one stays as it is.

        Rows become the candidates of a caption.
        """


class DenseLayerCache(LayerCache):
    """The reference: every position is stored, for every row of the batch, and masked on reading.

    `mask` is bool [T+RC, T+RC], rows are queries. Memory is allocated once, at the first `attend`,
    when batch, device and dtype (autocast has a say) are known.
    """

    def __init__(self, mask: Tensor) -> None:
        self.mask = mask
        self._length = 0
        self._store: Tensor | None = None  # keys and values: [2, B, H, T+RC, D]

    @property
    def length(self) -> int:
        return self._length

    @property
    def nbytes(self) -> int:
        return 0 if self._store is None else self._store.nbytes

    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        store = self._store
        if store is None:
            rows, heads, _, width = k.shape
            store = self._store = k.new_empty(2, rows, heads, len(self.mask), width)
        start, stop = self._length, self._length + k.shape[2]
        store[0, :, :, start:stop] = k
        store[1, :, :, start:stop] = v
        self._length = stop
        keys, values = store[:, :, :, :stop]
        mask = self.mask[start:stop, :stop]
        return F.scaled_dot_product_attention(q, keys, values, attn_mask=mask)

    def repeat(self, candidates: int) -> Self:
        twin = type(self)(self.mask)
        twin._length = self._length
        if self._store is not None:
            twin._store = self._store.repeat_interleave(candidates, dim=1)
        return twin


@dataclass(frozen=True, eq=False)
class CachePlan:
    """Where a pattern's layers keep each code of a stream, and what each code reads there.

    A slot holds the keys and values of one code at a time: it is written anew once no later code
    reads what it holds. Every code reads as many slots as the one that reads most, so that a step
    has one shape; what it must not see has a bias of minus infinity. Made once for a pattern and
    shared by its layers, see `plan_cache`.
    """

    mask: Tensor
    """What each stream position sees: bool [T+RC, T+RC]."""
    text: int
    """The stream's text inputs: positions before the first code."""
    slots: Tensor
    """The slot of each code, in raster order: [RC]."""
    size: int
    """Slots of a candidate: how many codes are kept at a time."""
    reads: Tensor | None
    """The slots that each code reads, [RC, n]; None where each reads all of them."""
    bias: Tensor
    """Added to the scores of what is read: 0 or minus infinity, float32 [RC, n]."""


def ring_slots(mask: Tensor, text: int) -> list[int]:
    """Slots for a pattern that looks back a bounded way: as many as its furthest look, in turns."""
    query, key = mask[text:, text:].nonzero(as_tuple=True)
    reach = int((query - key).max()) + 1 if len(query) else 1
    codes = len(mask) - text + 1  # the grid's last code is never read, but it has a place
    return [code % reach for code in range(codes)]


def plan_cache(mask: Tensor, text: int, slots: Sequence[int]) -> CachePlan:
    """Return the plan for a mask and the slot of each code.

    Raises `ValueError` if a code is overwritten before the last that sees it has been decoded.
    """
    size, held = max(slots) + 1, {}
    seen: list[list[int]] = []  # the slots of what each code sees
    for code, row in enumerate(mask[text:, text:].cpu()):
        held[slots[code]] = code
        keys = row.nonzero()[:, 0].tolist()
        if any(held.get(slots[key]) != key for key in keys):
            raise ValueError(f"code {code} sees a code whose slot was written anew")
        seen.append(sorted(slots[key] for key in keys))
    most = max((len(places) for places in seen), default=0)
    everything = most == size
    # The grid's last code is predicted and never read: its row of the tables is not used.
    bias = torch.full((len(slots), max(1, most)), -torch.inf)
    reads = torch.zeros(bias.shape, dtype=torch.long)
    for code, places in enumerate(seen):
        reads[code, : len(places)] = torch.tensor(places)
        bias[code, torch.tensor(places) if everything else slice(len(places))] = 0
    return CachePlan(
        mask=mask,
        text=text,
        slots=torch.tensor(slots, device=mask.device),
        size=size,
        reads=None if everything else reads.to(mask.device),
        bias=bias.to(mask.device),
    )


class Slots(NamedTuple):
    """One layer's keys and values: tensors alone, so that a step can be compiled over them."""

    text_keys: Tensor
    """Of each caption's text: [B, H, T+1, D], as are `text_values`."""
    text_values: Tensor
    keys: Tensor
    """Of each candidate's codes: [N, H, slots, D], as are `values`; a caption's are side by side.
    Tensors of their own: a compiler would copy the whole of one that it writes to a part of."""
    values: Tensor


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


class PatternLayerCache(LayerCache):
    """One layer's cache by a plan. The first `attend` reads the text, and any codes given with it.

    Text keys are never repeated, and nothing is allocated after `repeat`.
    """

    def __init__(self, plan: CachePlan) -> None:
        self.plan = plan
        self.store: Slots | None = None
        self._length = 0

    @property
    def length(self) -> int:
        return self._length

    @property
    def nbytes(self) -> int:
        return sum(tensor.nbytes for tensor in self.store or ())

    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        if self.store is None:
            return self._prefill(q, k, v)
        steps = []
        for i in range(q.shape[2]):
            index = torch.tensor([self._length - self.plan.text], device=q.device)
            here = slice(i, i + 1)
            one = (x[:, :, here] for x in (q, k, v))
            steps.append(attend_step(self.plan, self.store, index, *one))
            self._length += 1
        return torch.cat(steps, dim=2)

    def _prefill(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        rows, heads, n, width = k.shape
        text, plan = self.plan.text, self.plan
        if n < text:
            raise ValueError(f"the first read takes all {text} text positions, not {n}")
        last = {slot: code for code, slot in enumerate(plan.slots[: n - text].tolist())}
        given = [text + code for code in last.values()]
        # Zeros, for a slot that nothing was written to is read with weight 0.
        stores = [k.new_zeros(rows, heads, plan.size, width) for _ in range(2)]
        for store, both in zip(stores, (k, v), strict=True):
            store[:, :, list(last)] = both[:, :, given]
        # Copies: a view would hold on to all of the layer's queries, keys and values.
        self.store = Slots(k[:, :, :text].clone(), v[:, :, :text].clone(), *stores)
        self._length = n
        return F.scaled_dot_product_attention(q, k, v, attn_mask=plan.mask[:n, :n])

    def repeat(self, candidates: int) -> Self:
        twin = type(self)(self.plan)
        twin._length = self._length
        if self.store is not None:
            text_keys, text_values, *codes = self.store
            stores = (store.repeat_interleave(candidates, dim=0) for store in codes)
            twin.store = Slots(text_keys, text_values, *stores)
        return twin


class Cache:
    """The caches of all layers, first to last."""

    def __init__(self, layers: Sequence[LayerCache]) -> None:
        self.layers = list(layers)

    @property
    def length(self) -> int:
        """Stream positions read so far: the next one's number."""
        return self.layers[0].length

    @property
    def nbytes(self) -> int:
        """Bytes allocated so far."""
        return sum(layer.nbytes for layer in self.layers)

    def repeat(self, candidates: int) -> "Cache":
        """A new cache in which each row goes on as so many; see `LayerCache.repeat`."""
        return Cache([layer.repeat(candidates) for layer in self.layers])
