"""What an attention pattern is: one function of a query and a key."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor

from dalle.stream import Stream


class Blocks(NamedTuple):
    """How a pattern's attention among codes falls into blocks that are computed together.

    A block is `size` codes, each `step` after the one before it in raster order, and its codes see
    at most one another and the `reach` codes before the block. A step above 1 takes every step-th
    code of the whole grid (size * step = R * C) and reaches no further.
    """

    size: int
    """Codes in a block; divides R * C."""
    reach: int = 0
    """Codes before a block that it sees, too."""
    step: int = 1
    """1 for runs in raster order, C for columns."""


def sliding_blocks(stream: Stream, reach: int) -> Blocks:
    """Blocks of whole rows, for a pattern that sees at most `reach` codes back in raster order."""
    # Long blocks make large products, short ones compute less in vain (docs/experiments.md).
    most = max(1, int(0.8 * reach / stream.columns))
    rows = max(n for n in range(1, most + 1) if stream.rows % n == 0)
    return Blocks(rows * stream.columns, min(reach, stream.image_length - 1))


def ring_slots(mask: Tensor, text: int) -> list[int]:
    """Slots for a pattern that looks back a bounded way: as many as its furthest look, in turns."""
    query, key = mask[text:, text:].nonzero(as_tuple=True)
    reach = int((query - key).max()) + 1 if len(query) else 1
    codes = len(mask) - text + 1  # the grid's last code is never read, but it has a place
    return [code % reach for code in range(codes)]


class Pattern(ABC):
    """Which positions each position attends to (paper section 2.2, appendix B).

    `allowed` is the specification: it draws the pattern, its mask is the reference attention, and
    its rows are the rule for decoding. All a new pattern must write is a `name` and `sees`, and it
    trains and samples at once, if densely. `blocks` and `slots` are there to be overridden by
    faster ways to the same result.
    """

    name: ClassVar[str]

    @dataclass(frozen=True)
    class Options:
        """What the pattern may be told; a pattern with options has a class of its own here."""

    def __init__(self, options: Any = None) -> None:
        """`options` are an instance of the pattern's `Options`, by default its defaults."""
        self.options = options or self.Options()

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

    def blocks(self, stream: Stream) -> Blocks | None:
        """How attention among image codes falls into blocks, or None where it does not.

        Optional: it is what makes a pattern faster than dense attention (`dalle.attention`). Where
        the blocks are not exactly what `sees` allows, they are refused.
        """
        return None

    def slots(self, stream: Stream, mask: Tensor) -> list[int]:
        """Where a layer's cache keeps each code, in raster order; `mask` is `mask(stream)`.

        A slot may be given to a later code once nothing sees the code that held it. The default is
        a ring as long as the pattern's furthest look back. An override may put what is read
        together side by side.
        """
        return ring_slots(mask, stream.text_inputs)
