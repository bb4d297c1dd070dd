"""Attention to the text and to the image apart, each without what the pattern leaves out.

An image query's keys are two disjoint parts: all of the text, and some codes. The text part is one
product of all queries with the text's keys, which are never copied; it is also all that a text
query sees. The image part goes block by block, as the pattern cuts it (`Pattern.blocks`). The parts
come together in one of two ways: `dalle.attention.two_part`, `dalle.attention.one_softmax`.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

from dalle.attention.cut import Cut
from dalle.attention.kernel import Kernel
from dalle.attention.one_softmax import one_softmax_attention
from dalle.attention.two_part import two_part_attention
from dalle.patterns.base import Pattern
from dalle.stream import Stream
from dalle_base.common.errors import UserError

UNSEEN = -3e4
"""Added to the scores of a query that sees no code: finite, so that its outputs are, and so far
down (in float16 too) that its image part weighs exactly 0."""

SCHEMES = {torch.bfloat16: one_softmax_attention}
"""How the two parts come together, by type, where not as `two_part_attention` has it."""


class StructuredKernel(Kernel):
    """The scheme above, for CPUs. Where nothing is left out, the fused causal kernel."""

    bias: Tensor

    def __init__(self, pattern: Pattern, stream: Stream) -> None:
        super().__init__(pattern, stream)
        blocks = pattern.blocks(stream)
        if blocks is None:
            raise UserError(
                f"attention structured: the pattern {pattern.name} does not say how it is cut "
                "into blocks (Pattern.blocks); use reference"
            )
        self.cut = Cut(stream.text_inputs, *blocks)
        seen = self.cut.seen(pattern, stream)
        pairs = _pairs_of_codes(pattern, stream)
        if seen is None or seen.sum() != pairs:
            raise UserError(f"the blocks of pattern {pattern.name} are not what it allows")
        self.dense = pairs == stream.image_length * (stream.image_length - 1) // 2
        bias = torch.zeros(seen.shape, device="cpu").masked_fill_(~seen, -torch.inf)
        bias.masked_fill_(~seen.any(dim=-1, keepdim=True), UNSEEN)
        self.register_buffer("bias", bias, persistent=False)

    def forward(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        if q.device.type != "cpu":
            raise UserError(
                f"attention structured runs on the CPU, not on {q.device.type}: use auto"
            )
        n = q.shape[2]
        if self.dense or n <= self.stream.text_inputs:
            return F.scaled_dot_product_attention(q, k, v, is_causal=True)
        if n < self.stream.length:  # what is not there yet is seen by nothing that is
            q, k, v = (F.pad(x, (0, 0, 0, self.stream.length - n)) for x in (q, k, v))
        attend = SCHEMES.get(q.dtype, two_part_attention)
        return attend(q, k, v, self.bias.to(q.dtype), self.cut)[:, :, :n]


def _pairs_of_codes(pattern: Pattern, stream: Stream) -> int:
    """How many pairs of codes the pattern allows, among all but the last, which is no input."""
    codes = torch.arange(stream.text_inputs, stream.length, device="cpu")
    return int(pattern.allowed(codes[:, None], codes[None, :], stream).sum())
