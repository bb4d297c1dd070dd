"""How diffusers' networks attend: the fast way for each device and precision."""

from typing import Any

import torch
from diffusers.models.attention_processor import Attention, AttnProcessor, AttnProcessor2_0
from torch import Tensor


class FastAttention(AttnProcessor):
    """PyTorch's fused attention; in bfloat16 on a CPU, where its backward pass takes as long as the
    rest of the network, two products and a softmax (benchmarks/unclip_step.py).
    """

    def __init__(self) -> None:
        """Keep the fused one beside."""
        super().__init__()
        self.fused = AttnProcessor2_0()

    def __call__(
        self, attn: Attention, hidden_states: Tensor, *rest: Any, **options: Any
    ) -> Tensor:
        """Return attention's output for hidden states [B, T, width], as diffusers calls it."""
        plain = hidden_states.device.type == "cpu" and torch.is_autocast_enabled("cpu")
        way = super().__call__ if plain else self.fused
        return way(attn, hidden_states, *rest, **options)
