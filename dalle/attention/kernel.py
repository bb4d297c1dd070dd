"""What a backend of attention is."""

from abc import ABC, abstractmethod

from torch import Tensor, nn

from dalle.patterns.base import Pattern
from dalle.stream import Stream


class Kernel(nn.Module, ABC):
    """One backend: computes a pattern's attention on a stream. Has no parameters.

    Raises `UserError` when it is made for a pattern, or called on a device, that it cannot serve.
    """

    def __init__(self, pattern: Pattern, stream: Stream) -> None:
        super().__init__()
        self.pattern, self.stream = pattern, stream

    @abstractmethod
    def forward(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """The attention of the stream's first n positions to one another, [B, H, n, D] each."""
