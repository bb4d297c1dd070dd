"""Keys and values kept between decoding steps, as explicit objects that are passed in.

A caption's text is stored once for all of its candidates, and of each candidate's codes only what
its layers' patterns will still read. Shapes: B captions, N candidates, H heads, D head width.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Self

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

    @abstractmethod
    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Read the stream's next n positions, and return their attention: [B, H, n, D] each."""

    @abstractmethod
    def fork(self, index: Tensor) -> Self:
        """A new cache whose row i goes on from this one's row `index[i]`; this one stays as it is.

        `index` is an integer tensor [rows]: [0, 0, 0] makes three candidates of one caption.
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

    def fork(self, index: Tensor) -> Self:
        twin = type(self)(self.mask)
        twin._length = self._length
        if self._store is not None:
            store = self._store.new_empty(2, len(index), *self._store.shape[2:])
            # Only what has been read: the rest of the store is not written yet.
            store[:, :, :, : self._length] = self._store[:, index, :, : self._length]
            twin._store = store
        return twin


@dataclass(frozen=True, eq=False)
class CachePlan:
    """Where a pattern's layers keep each code of a stream, and what each code reads there.

    A slot holds the keys and values of one code at a time: it is written anew once no later code
    reads what it holds. Made once for a pattern and shared by its layers, see `plan_cache`.
    """

    mask: Tensor
    """What each stream position sees: bool [T+RC, T+RC]."""
    text: int
    """The stream's text inputs: positions before the first code."""
    slots: tuple[int, ...]
    """The slot of each code, in raster order."""
    reads: tuple[slice | Tensor, ...]
    """The slots that each code attends to once it is written: a run where they are one."""

    @property
    def size(self) -> int:
        """Slots of a candidate: how many codes are kept at a time."""
        return max(self.slots) + 1


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
    reads: list[slice | Tensor] = []
    held: dict[int, int] = {}
    image = mask[text:, text:].cpu()
    for code, row in enumerate(image):
        held[slots[code]] = code
        seen = row.nonzero()[:, 0].tolist()
        if any(held.get(slots[key]) != key for key in seen):
            raise ValueError(f"code {code} sees a code whose slot was written anew")
        places = sorted(slots[key] for key in seen)
        if all(after == before + 1 for before, after in pairwise(places)):
            reads.append(slice(places[0], places[-1] + 1))
        else:
            reads.append(torch.tensor(places, device=mask.device))
    return CachePlan(mask, text, tuple(slots), tuple(reads))


class PatternLayerCache(LayerCache):
    """One layer's cache by a plan. The first `attend` reads the text, and any codes given with it.

    Text keys are [B, H, T+1, D] and never repeated: the candidates of a caption, whose rows stand
    side by side, attend to them in one product. Code keys are [N, H, slots, D], allocated once.
    """

    def __init__(self, plan: CachePlan) -> None:
        self.plan = plan
        self._length = 0
        self._text: tuple[Tensor, Tensor] | None = None
        self._codes: tuple[Tensor, Tensor] | None = None
        self._groups: list[tuple[int, int, int]] = []  # a caption, and its first and last row + 1

    @property
    def length(self) -> int:
        return self._length

    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        if self._text is None or self._codes is None:
            return self._prefill(q, k, v)
        steps = [self._step(*(x[:, :, i : i + 1] for x in (q, k, v))) for i in range(q.shape[2])]
        return steps[0] if len(steps) == 1 else torch.cat(steps, dim=2)

    def _prefill(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        rows, heads, n, width = k.shape
        text = self.plan.text
        if n < text:
            raise ValueError(f"the first read takes all {text} text positions, not {n}")
        # Copies: these would hold on to all of the layer's queries, keys and values.
        self._text = (k[:, :, :text].clone(), v[:, :, :text].clone())
        shape = (rows, heads, self.plan.size, width)
        self._codes = (k.new_empty(shape), v.new_empty(shape))
        for store, given in zip(self._codes, (k, v), strict=True):
            for code in range(n - text):
                store[:, :, self.plan.slots[code]] = given[:, :, text + code]
        self._groups = [(row, row, row + 1) for row in range(rows)]
        self._length = n
        return F.scaled_dot_product_attention(q, k, v, attn_mask=self.plan.mask[:n, :n])

    def _step(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        assert self._text is not None
        assert self._codes is not None
        rows, heads, _, width = q.shape
        code = self._length - self.plan.text
        self._length += 1
        for store, given in zip(self._codes, (k, v), strict=True):
            store[:, :, self.plan.slots[code]] = given[:, :, 0]
        keys, values = self._read(self._codes[0], code), self._read(self._codes[1], code)
        q = q * width**-0.5
        text = self.plan.text
        scores = q.new_empty(rows, heads, text + keys.shape[2])
        for caption, first, last in self._groups:  # [H, candidates, D] x [H, D, T+1]
            product = q[first:last, :, 0].transpose(0, 1) @ self._text[0][caption].mT
            scores[first:last, :, :text] = product.transpose(0, 1)
        scores[..., text:] = (q @ keys.mT)[:, :, 0]
        share = scores.softmax(dim=-1)
        out = share[:, :, None, text:] @ values
        for caption, first, last in self._groups:
            product = share[first:last, :, :text].transpose(0, 1) @ self._text[1][caption]
            out[first:last, :, 0] += product.transpose(0, 1)
        return out

    def _read(self, store: Tensor, code: int) -> Tensor:
        places = self.plan.reads[code]
        if isinstance(places, slice):
            return store[:, :, places]
        return store.index_select(2, places)

    def fork(self, index: Tensor) -> Self:
        twin = type(self)(self.plan)
        twin._length = self._length
        if self._text is None or self._codes is None:
            return twin
        twin._text = self._text
        caption_of = [caption for caption, first, last in self._groups for _ in range(first, last)]
        for row, parent in enumerate(index.tolist()):
            caption = caption_of[parent]
            if twin._groups and twin._groups[-1][0] == caption:
                twin._groups[-1] = (caption, twin._groups[-1][1], row + 1)
            else:
                twin._groups.append((caption, row, row + 1))
        codes = self._length - self.plan.text
        written = max(self.plan.slots[:codes], default=-1) + 1  # the rest is not written yet
        keys, values = self._codes
        shape = (len(index), *keys.shape[1:])
        twin._codes = (keys.new_empty(shape), values.new_empty(shape))
        for new, old in zip(twin._codes, self._codes, strict=True):
            new[:, :, :written] = old[index, :, :written]
        return twin


class Cache:
    """The caches of all layers, first to last."""

    def __init__(self, layers: Sequence[LayerCache]) -> None:
        self.layers = list(layers)

    @property
    def length(self) -> int:
        """Stream positions read so far: the next one's number."""
        return self.layers[0].length

    def fork(self, index: Tensor) -> "Cache":
        """A new cache whose row i goes on from this one's row `index[i]`; see `LayerCache.fork`."""
        return Cache([layer.fork(index) for layer in self.layers])
