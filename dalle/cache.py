"""Keys and values kept between decoding steps, as explicit objects that are passed in."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Self

from torch import Tensor
from torch.nn import functional as F


class LayerCache(ABC):
    """What one layer remembers of the stream so far.

    A layer only ever calls `attend`, so how things are stored is the cache's own affair: it may
    keep less than every position, or one copy of the text for all candidates.
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
