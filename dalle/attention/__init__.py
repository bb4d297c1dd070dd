"""How a pattern's attention is computed. The way is chosen here and nowhere else.

Every way gives what a dense product under `Pattern.mask` gives. ADD A WAY = one file with a
subclass of `Kernel`, and its line in KERNELS.
"""

import torch
from torch import Tensor, nn

from dalle.attention.flex import FlexKernel
from dalle.attention.kernel import Kernel
from dalle.attention.reference import ReferenceKernel
from dalle.attention.structured import StructuredKernel
from dalle.patterns import Pattern
from dalle.stream import Stream
from training.errors import UserError

KERNELS: dict[str, type[Kernel]] = {
    "reference": ReferenceKernel,
    "structured": StructuredKernel,
    "flex": FlexKernel,
}
AUTO = "auto"
WAYS = (AUTO, *KERNELS)
SHORT = 320
"""Stream positions from which the structured way is faster than dense products on a CPU."""
SPARSE = 0.46
"""Share of a dense product's query-key pairs that blocks may have at most to be worth it.

Both were measured in float32 and in bfloat16: docs/experiments.md.
"""


def candidates(pattern: Pattern, stream: Stream) -> list[str]:
    """Return the ways worth having for a pattern on this machine, for `choose` to choose from."""
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
    """Return the fastest of some ways on a device."""
    fastest = {"cpu": "structured", "cuda": "flex"}.get(device.type, "reference")
    return fastest if fastest in names else "reference"


class PatternAttention(nn.Module):
    """One pattern's attention over a stream.

    `way` is one of WAYS; "auto" takes the fastest on the device at hand. Raises `UserError` for a
    way that does not exist or cannot serve the pattern.
    """

    mask: Tensor

    def __init__(self, pattern: Pattern, stream: Stream, way: str = AUTO) -> None:
        super().__init__()
        if way not in WAYS:
            raise UserError(f"attention is {way!r}: use one of {', '.join(WAYS)}")
        self.pattern, self.way = pattern, way
        # Masks follow from the config, so they are no part of a checkpoint.
        self.register_buffer("mask", pattern.mask(stream), persistent=False)
        names = candidates(pattern, stream) if way == AUTO else [way]
        self.kernels = nn.ModuleDict({name: KERNELS[name](pattern, stream) for name in names})

    def forward(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """The attention of the stream's first n positions to one another, [B, H, n, D] each."""
        way = self.way
        if way == AUTO:
            way = choose(list(self.kernels), q.device)
        return self.kernels[way](q, k, v)


__all__ = ["AUTO", "KERNELS", "WAYS", "Kernel", "PatternAttention", "candidates", "choose"]
