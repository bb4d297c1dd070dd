"""How a pattern's attention is computed. The backend is chosen here and nowhere else.

Every backend gives what a dense product under `Pattern.mask` gives. ADD A BACKEND = one file with a
subclass of `Kernel`, its line in KERNELS, and its name in `dalle.config.BACKENDS`.
"""

import torch
from torch import Tensor, nn

from dalle.attention.kernel import Kernel
from dalle.config import BACKENDS
from dalle.patterns.base import Pattern
from dalle.stream import Stream
from dalle_base.common.errors import UserError
from dalle_base.common.registry import Registry

KERNELS: Registry[type[Kernel]] = Registry(
    {
        "reference": "dalle.attention.reference:ReferenceKernel",
        "structured": "dalle.attention.structured:StructuredKernel",
        "flex": "dalle.attention.flex:FlexKernel",  # whose import takes the compiler's
    }
)
AUTO = "auto"
SHORT = 320
"""Stream positions from which the structured backend is faster than dense products on a CPU."""
SPARSE = 0.46
"""Share of a dense product's query-key pairs that blocks may have at most to be worth it.

Both were measured in float32 and in bfloat16: docs/experiments.md.
"""


def candidates(pattern: Pattern, stream: Stream) -> list[str]:
    """Return the backends worth having for a pattern on this machine, for `choose`."""
    names = ["reference"]
    blocks = pattern.blocks(stream)
    if stream.length >= SHORT and blocks is not None:
        keys = stream.text_inputs + blocks.size + blocks.reach  # of an image query
        # Everything in one block is plain causal attention: one fused kernel, without a mask.
        causal = blocks.size == stream.image_length
        if causal or stream.image_length * keys <= SPARSE * stream.length**2:
            names.append("structured")
    if torch.cuda.is_available():
        names.append("flex")
    return names


def choose(names: list[str], device: torch.device) -> str:
    """Return the fastest of some backends on a device."""
    fastest = {"cpu": "structured", "cuda": "flex"}.get(device.type, "reference")
    return fastest if fastest in names else "reference"


class PatternAttention(nn.Module):
    """One pattern's attention over a stream.

    `backend` is one of BACKENDS; "auto" takes the fastest on the device at hand. Raises `UserError`
    for a backend that does not exist or cannot serve the pattern.
    """

    mask: Tensor

    def __init__(self, pattern: Pattern, stream: Stream, backend: str = AUTO) -> None:
        super().__init__()
        if backend not in BACKENDS:
            raise UserError(f"attention is {backend!r}: use one of {', '.join(BACKENDS)}")
        self.pattern, self.backend = pattern, backend
        # Masks follow from the config, so they are no part of a checkpoint.
        self.register_buffer("mask", pattern.mask(stream), persistent=False)
        names = candidates(pattern, stream) if backend == AUTO else [backend]
        self.kernels = nn.ModuleDict({name: KERNELS[name](pattern, stream) for name in names})

    def forward(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """The attention of the stream's first n positions to one another, [B, H, n, D] each."""
        backend = self.backend
        if backend == AUTO:
            backend = choose(list(self.kernels), q.device)
        return self.kernels[backend](q, k, v)


__all__ = ["AUTO", "KERNELS", "Kernel", "PatternAttention", "candidates", "choose"]
