"""How diffusers' networks attend: the fast way on each kind of device."""

from typing import Any

from diffusers.models.attention_processor import Attention, AttnProcessor, AttnProcessor2_0
from torch import Tensor


class FastAttention(AttnProcessor):
    """PyTorch's fused attention on a GPU; two products and a softmax on a CPU, where the backward
    pass of the fused one takes as long as the rest of the network.
    """

    def __init__(self) -> None:
        """Keep the fused one beside."""
        super().__init__()
        self.fused = AttnProcessor2_0()

    def __call__(
        self, attn: Attention, hidden_states: Tensor, *rest: Any, **options: Any
    ) -> Tensor:
        """Return attention's output for hidden states [B, T, width], as diffusers calls it."""
        way = self.fused if hidden_states.is_cuda else super().__call__
        return way(attn, hidden_states, *rest, **options)
