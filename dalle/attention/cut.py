"""Where a pattern's blocks lie in a stream, and views of them."""

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from dalle.patterns.base import Pattern
from dalle.stream import Stream


class Cut(NamedTuple):
    """The blocks of the image part: views of the stream, so that nothing is gathered or scattered.

    The blocks start one position before the codes, at the last of the text: as the grid's last code
    is no input, they still have R * C positions. That one sees all of its keys in the text part.
    """

    text: int
    """The stream's text inputs; the rest is as in `dalle.patterns.Blocks`."""
    size: int
    reach: int
    step: int

    def seen(self, pattern: Pattern, stream: Stream) -> Tensor | None:
        """Which codes each code sees within its block: bool [blocks, size, reach + size].

        None if no such blocks fit the stream.
        """
        size, reach, step = self.size, self.reach, self.step
        codes = stream.image_length
        if size < 1 or reach < 0 or step < 1 or codes % size:
            return None
        if step > 1 and (reach or size * step != codes):
            return None
        position = torch.arange(stream.length, device="cpu")[None, :, None]
        query, key = (part[0, :, :, 0] for part in (self.queries(position), self.keys(position)))
        key, query = key[:, None, :], query[:, :, None]
        # Positions before the stream were padded with 0, which is text: not an image key either.
        image = (query >= self.text) & (key >= self.text)
        return image & pattern.allowed(query, key, stream)

    def queries(self, x: Tensor) -> Tensor:
        """The blocks of one stream's [H, n, D]: a view [H, blocks, size, D]."""
        x = x[:, self.text - 1 :]
        if self.step > 1:  # the blocks interleave, and there are as many as a step is long
            return x.unflatten(1, (self.size, self.step)).transpose(1, 2)
        return x.unflatten(1, (-1, self.size))

    def keys(self, x: Tensor) -> Tensor:
        """The blocks with what they reach back to, [H, blocks, reach + size, D].

        A view, but for texts that are shorter than the reach.
        """
        if not self.reach:
            return self.queries(x)
        start = self.text - 1 - self.reach
        x = x[:, start:] if start >= 0 else F.pad(x, (0, 0, -start, 0))
        return x.unfold(1, self.reach + self.size, self.size).transpose(2, 3)

    def sum_keys(self, blocks: Tensor, out: Tensor) -> None:
        """Write to `out` [H, n, D] the sums of what `blocks`, as `keys` cuts them, say of a key."""
        total = self.queries(out)
        total.copy_(blocks[:, :, self.reach :])
        behind, end = 0, self.reach
        while end > 0:  # the part of each window that lies in the block so many blocks behind
            behind, begin = behind + 1, max(0, end - self.size)
            lapped = total[:, : total.shape[1] - behind, self.size - (end - begin) :]
            lapped.add_(blocks[:, behind:, begin:end])
            end = begin
