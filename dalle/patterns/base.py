"""What an attention pattern is: one function of a query and a key."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F

from dalle.cache import DenseLayerCache, LayerCache
from dalle.stream import Stream


@dataclass(frozen=True)
class PatternOptions:
    """What a pattern may be told beyond the stream it works on."""

    conv_kernel: int = 11
    """Side of the convolutional pattern's window: odd."""


class Pattern(ABC):
    """Which positions each position attends to (paper section 2.2, appendix B).

    `allowed` is the specification: it draws the pattern, its mask is the reference attention, and
    its rows are the rule for decoding. All a new pattern must write is a `name` and `sees`, and it
    trains and samples at once, densely. `attend` and `cache` are there to be overridden by
    faster ways to the same result.
    """

    name: ClassVar[str]

    def __init__(self, options: PatternOptions | None = None) -> None:
        self.options = options or PatternOptions()

    @abstractmethod
    def sees(self, query: Tensor, key: Tensor, stream: Stream) -> Tensor:
        """Whether image code `query` attends to the earlier (or same) image code `key`.

        Both are integer tensors of raster indices that broadcast together; `key <= query` need not
        be checked here, and where it does not hold the answer is not used.
        """

    def allowed(self, query: Tensor, key: Tensor, stream: Stream) -> Tensor:
        """Whether position `query` attends to position `key`: a boolean tensor.

        `query` and `key` are integer tensors of stream positions that broadcast together. What all
        the paper's patterns share is said here: nothing looks ahead, and all of the text is seen
        (by image positions, and causally by the text itself).
        """
        in_image = self.sees(stream.raster(query), stream.raster(key), stream)
        return (key <= query) & (stream.is_text(key) | in_image)

    def mask(self, stream: Stream) -> Tensor:
        """`allowed` for every query (rows) and key (columns) of a stream: bool [T+RC, T+RC]."""
        # On the CPU even inside `torch.device("meta")`: a mask is a constant, not a weight to load.
        positions = torch.arange(stream.length, device="cpu")
        return self.allowed(positions[:, None], positions[None, :], stream)

    def attend(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor) -> Tensor:
        """Attention of the stream's first n positions to one another, [B, H, n, D].

        `q`, `k` and `v` are [B, H, n, D]; `mask` is the first n rows and columns of `mask(stream)`.
        An override may use a structure the mask has, and must give what this gives.
        """
        return F.scaled_dot_product_attention(q, k, v, attn_mask=mask)

    def cache(self, mask: Tensor) -> LayerCache:
        """An empty cache for one layer of this pattern; `mask` is `mask(stream)`.

        An override may drop what no later position will attend to.
        """
        return DenseLayerCache(mask)
