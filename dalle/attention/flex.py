"""FlexAttention, with a block mask made from the pattern's own `allowed`: the backend for CUDA."""

from functools import cache

import torch
from torch import Tensor
from torch.nn.attention.flex_attention import BlockMask, create_block_mask, flex_attention

from dalle.attention.kernel import Kernel
from dalle.patterns.base import Pattern
from dalle.stream import Stream
from dalle_base.common.errors import UserError


@cache
def _compiled() -> object:
    return torch.compile(flex_attention, dynamic=False)


class FlexKernel(Kernel):
    """Fused and blockwise sparse on CUDA; on a CPU only forward, unfused, which is for tests."""

    def __init__(self, pattern: Pattern, stream: Stream) -> None:
        super().__init__(pattern, stream)
        self._masks: dict[tuple[int, torch.device], BlockMask] = {}

    def block_mask(self, n: int, device: torch.device) -> BlockMask:
        """The block mask of the stream's first n positions, made once for each n and device."""
        place = (n, device)
        if place not in self._masks:

            def allowed(batch: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
                return self.pattern.allowed(query, key, self.stream)

            self._masks[place] = create_block_mask(allowed, None, None, n, n, device=str(device))
        return self._masks[place]

    def forward(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        mask = self.block_mask(q.shape[2], q.device)
        if q.device.type == "cuda":
            return _compiled()(q, k, v, block_mask=mask)  # type: ignore[operator]
        if torch.is_grad_enabled() and any(x.requires_grad for x in (q, k, v)):
            raise UserError(
                f"attention flex has no backward on {q.device.type}: use auto, structured or "
                "reference there"
            )
        return flex_attention(q, k, v, block_mask=mask)  # type: ignore[return-value]
