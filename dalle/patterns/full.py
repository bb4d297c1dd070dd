"""Full causal attention."""

import torch
from torch import Tensor

from dalle.patterns.base import Blocks, Pattern
from dalle.stream import Stream


class Full(Pattern):
    """All earlier codes and the code itself: plain causal attention, the dense baseline."""

    name = "full"

    def sees(self, query: Tensor, key: Tensor, stream: Stream) -> Tensor:
        return torch.ones_like(query - key, dtype=torch.bool)

    def blocks(self, stream: Stream) -> Blocks:
        return Blocks(size=stream.image_length)
