"""Attention to the text and to the image apart, each without what the pattern leaves out.

An image query's keys are two disjoint parts: all of the text, and some codes. The text part is one
product of all queries with the text's keys, which are never copied; it is also all that a text
query sees. The image part goes block by block, as the pattern cuts it (`Pattern.blocks`): the
blocks are views of the stream, so that nothing is gathered or scattered. With outputs o_p and
log-sum-exps l_p of the parts, the whole is

    l = log sum_p exp(l_p),    o = sum_p exp(l_p - l) o_p.

Backward, a part's probabilities within the whole are exp(score - l), and the row sum that softmax's
gradient subtracts is that of the merged output: so each part's own backward, given o and l in place
of o_p and l_p, returns exactly its share of the gradients. `dalle.attention.parts` has the two
directions of one part.
"""

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from dalle.attention.kernel import Kernel
from dalle.attention.parts import part_backward, part_forward
from dalle.patterns import Pattern
from dalle.stream import Stream
from training.errors import UserError

UNSEEN = -3e4
"""Added to the scores of a query that sees no code: finite, so that its outputs are, and so far
down (in float16 too) that its image part weighs exactly 0."""


class StructuredKernel(Kernel):
    """The two-part scheme above, for CPUs. Where nothing is left out, the fused causal kernel."""

    bias: Tensor

    def __init__(self, pattern: Pattern, stream: Stream) -> None:
        super().__init__(pattern, stream)
        blocks = pattern.blocks(stream)
        if blocks is None:
            raise UserError(
                f"attention structured: the pattern {pattern.name} does not say how it is cut "
                "into blocks (Pattern.blocks); use reference"
            )
        self.cut = _Cut(stream.text_inputs, *blocks)
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
        bias = self.bias.to(q.dtype).expand(q.shape[1], -1, -1, -1)
        out, _ = _attend(q, k, v, bias, *self.cut)
        return out[:, :, :n]


def _pairs_of_codes(pattern: Pattern, stream: Stream) -> int:
    """How many pairs of codes the pattern allows, among all but the last, which is no input."""
    codes = torch.arange(stream.text_inputs, stream.length, device="cpu")
    return int(pattern.allowed(codes[:, None], codes[None, :], stream).sum())


class _Cut(NamedTuple):
    """Where blocks lie in a stream, and views of them.

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


# Custom operators, opaque to `torch.compile`: it would trace the views and undo what they save.
@torch.library.custom_op("dalle::two_part_attention", mutates_args=())
def _attend(
    q: Tensor, k: Tensor, v: Tensor, bias: Tensor, text: int, size: int, reach: int, step: int
) -> tuple[Tensor, Tensor]:
    """Return the attention and the log-sum-exp of its scores."""
    cut = _Cut(text, size, reach, step)
    # All queries at once: under the causal mask, those of the image see all of the text.
    out, lse = part_forward(q, k[:, :, :text], v[:, :, :text], causal=True)
    for one in range(len(q)):  # a batch's streams do not lie evenly, so each has its views
        within, within_lse = part_forward(
            cut.queries(q[one]), cut.keys(k[one]), cut.keys(v[one]), bias
        )
        across, across_lse = cut.queries(out[one]), cut.queries(lse[one, ..., None])[..., 0]
        share = torch.sigmoid(within_lse - across_lse)[..., None].to(q.dtype)
        across.lerp_(within, share)
        across_lse.copy_(torch.logaddexp(across_lse, within_lse))
    return out, lse


@_attend.register_fake
def _(q: Tensor, k: Tensor, v: Tensor, bias: Tensor, text: int, size: int, reach: int, step: int):
    return part_forward(q, k[:, :, :text], v[:, :, :text], causal=True)


@torch.library.custom_op("dalle::two_part_attention_backward", mutates_args=())
def _attend_backward(
    grad: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    out: Tensor,
    lse: Tensor,
    bias: Tensor,
    text: int,
    size: int,
    reach: int,
    step: int,
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the gradients of q, k and v."""
    cut = _Cut(text, size, reach, step)
    dq, text_dk, text_dv = part_backward(
        grad, q, k[:, :, :text], v[:, :, :text], out, lse, causal=True
    )
    dk, dv = torch.empty_like(k), torch.empty_like(v)
    for one in range(len(q)):
        within_dq, within_dk, within_dv = part_backward(
            cut.queries(grad[one]),
            cut.queries(q[one]),
            cut.keys(k[one]),
            cut.keys(v[one]),
            cut.queries(out[one]),
            cut.queries(lse[one, ..., None])[..., 0],
            bias,
        )
        cut.queries(dq[one]).add_(within_dq)
        cut.sum_keys(within_dk, dk[one])
        cut.sum_keys(within_dv, dv[one])
    # Last, for the blocks began at the text's last position.
    dk[:, :, :text], dv[:, :, :text] = text_dk, text_dv
    return dq, dk, dv


@_attend_backward.register_fake
def _(
    grad: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    out: Tensor,
    lse: Tensor,
    bias: Tensor,
    text: int,
    size: int,
    reach: int,
    step: int,
):
    dq, _, _ = part_backward(grad, q, k[:, :, :text], v[:, :, :text], out, lse, causal=True)
    return dq, torch.empty_like(k), torch.empty_like(v)


def _save(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    q, k, v, bias, *ctx.cut = inputs
    ctx.save_for_backward(q, k, v, *output, bias)


def _gradients(ctx: Any, grad: Tensor, _: Tensor):
    """The log-sum-exp is for the backward pass alone: it is no output that has a gradient."""
    dq, dk, dv = _attend_backward(grad, *ctx.saved_tensors, *ctx.cut)
    return dq, dk, dv, *[None] * 5


_attend.register_autograd(_gradients, setup_context=_save)
