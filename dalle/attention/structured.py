"""Attention to the text and to the image apart, each without what the pattern leaves out.

An image query's keys are two disjoint parts: all of the text, and some codes. The text part is one
dense product for all image queries, so the text's keys are never copied. The image part goes block
by block, as the pattern cuts it (`Pattern.blocks`). With outputs o_p and log-sum-exps l_p of the
parts, the whole is

    l = log sum_p exp(l_p),    o = sum_p exp(l_p - l) o_p.

Backward, a part's probabilities within the whole are exp(score - l), and the row sum that softmax's
gradient subtracts is that of the merged output: so each part's own backward, given o and l in place
of o_p and l_p, returns exactly its share of the gradients. `dalle.attention.parts` has the two
directions of one part.
"""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import FunctionCtx, once_differentiable
from torch.nn import functional as F

from dalle.attention.kernel import Kernel
from dalle.attention.parts import part_backward, part_forward
from dalle.patterns import Pattern
from dalle.stream import Stream
from training.errors import UserError


class StructuredKernel(Kernel):
    """The two-part scheme above, for CPUs. Where nothing is left out, the fused causal kernel."""

    queries: Tensor
    keys: Tensor
    order: Tensor
    bias: Tensor

    def __init__(self, pattern: Pattern, stream: Stream) -> None:
        super().__init__(pattern, stream)
        blocks = pattern.blocks(stream)
        if blocks is None:
            raise UserError(
                f"attention structured: the pattern {pattern.name} does not say how it is cut "
                "into blocks (Pattern.blocks); use reference"
            )
        positions = [index + stream.text_inputs for index in (blocks.queries, blocks.keys)]
        seen = pattern.allowed(positions[0][:, :, None], positions[1][:, None, :], stream)
        seen &= (blocks.keys >= 0)[:, None, :]
        pairs = _check_cover(pattern, stream, blocks.queries, seen)
        self.dense = pairs == stream.image_length * (stream.image_length + 1) // 2
        bias = torch.zeros(seen.shape, device="cpu").masked_fill_(~seen, -torch.inf)
        for name, value in (
            ("queries", blocks.queries.flatten()),
            ("keys", blocks.keys.clamp(min=0).flatten()),
            ("order", blocks.queries.flatten().argsort()),
            ("bias", bias),
        ):
            self.register_buffer(name, value, persistent=False)

    def forward(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        if q.device.type != "cpu":
            raise UserError(
                f"attention structured runs on the CPU, not on {q.device.type}: use auto"
            )
        if self.dense or q.shape[2] <= self.stream.text_inputs:
            return F.scaled_dot_product_attention(q, k, v, is_causal=True)
        bias = self.bias.to(q.dtype)
        parts = (self.stream.text_inputs, self.queries, self.keys, self.order, bias)
        out = _TwoPartAttention.apply(q, k, v, *parts)
        assert isinstance(out, Tensor)
        return out


def _check_cover(pattern: Pattern, stream: Stream, queries: Tensor, seen: Tensor) -> int:
    """Return the number of pairs of codes that the pattern allows.

    Raises `UserError` if the blocks leave out, or count twice, any of them.
    """
    index = torch.arange(stream.image_length, device="cpu")
    once = torch.equal(queries.flatten().sort().values, index)
    positions = index + stream.text_inputs
    pairs = int(pattern.allowed(positions[:, None], positions[None, :], stream).sum())
    if not once or seen.sum() != pairs:
        raise UserError(f"the blocks of pattern {pattern.name} are not what it allows")
    return pairs


class _TwoPartAttention(torch.autograd.Function):
    @staticmethod
    def forward(ctx: FunctionCtx, q: Tensor, k: Tensor, v: Tensor, text: int, *layout: Tensor):
        queries, keys, order, bias = layout
        text_q, text_k, text_v = (x[:, :, :text] for x in (q, k, v))
        out, lse = torch.empty_like(q), q.new_empty(q.shape[:3], dtype=_lse_dtype(q))
        text_out, text_lse = part_forward(text_q, text_k, text_v, causal=True)
        out[:, :, :text], lse[:, :, :text] = text_out, text_lse

        across, across_lse = part_forward(q[:, :, text:], text_k, text_v)
        blocks = _Blocks(q, text, queries, keys, order, bias)
        within, within_lse = part_forward(
            blocks.of_queries(q), blocks.of_keys(k), blocks.of_keys(v), blocks.bias
        )
        within, within_lse = blocks.to_raster(within), blocks.to_raster(within_lse[..., None])
        within_lse = within_lse[..., 0]
        lse[:, :, text:] = torch.logaddexp(across_lse, within_lse)
        share = torch.sigmoid(within_lse - across_lse)[..., None].to(q.dtype)
        torch.lerp(across, within, share, out=out[:, :, text:])
        ctx.save_for_backward(q, k, v, out, lse, *layout)
        ctx.text = text  # type: ignore[attr-defined]
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor):
        q, k, v, out, lse, queries, keys, order, bias = ctx.saved_tensors
        text = ctx.text
        text_k, text_v = k[:, :, :text], v[:, :, :text]
        dq, dk, dv = torch.empty_like(q), torch.empty_like(k), torch.empty_like(v)
        pieces = (x[:, :, :text] for x in (grad, q, k, v, out, lse))
        text_dq, text_dk, text_dv = part_backward(*pieces, causal=True)
        image_grad, image_q, image_out, image_lse = (x[:, :, text:] for x in (grad, q, out, lse))
        across_dq, across_dk, across_dv = part_backward(
            image_grad, image_q, text_k, text_v, image_out, image_lse
        )
        dq[:, :, :text] = text_dq
        torch.add(text_dk, across_dk, out=dk[:, :, :text])
        torch.add(text_dv, across_dv, out=dv[:, :, :text])

        blocks = _Blocks(q, text, queries, keys, order, bias)
        within_dq, within_dk, within_dv = part_backward(
            blocks.of_gradients(grad),
            blocks.of_queries(q),
            blocks.of_keys(k),
            blocks.of_keys(v),
            blocks.of_queries(out),
            blocks.of_queries(lse[..., None])[..., 0],
            blocks.bias,
        )
        torch.add(across_dq, blocks.to_raster(within_dq), out=dq[:, :, text:])
        dk[:, :, text:] = blocks.sum_keys(within_dk)
        dv[:, :, text:] = blocks.sum_keys(within_dv)
        return dq, dk, dv, None, None, None, None, None


class _Blocks:
    """Moves the image part of stream tensors [B, H, n, D] to blocks [B * H, blocks, size, D]."""

    def __init__(
        self, like: Tensor, text: int, queries: Tensor, keys: Tensor, order: Tensor, bias: Tensor
    ) -> None:
        self.batch, self.heads, n = like.shape[:3]
        self.length = n - text  # a grid's last code is never read, so it is one less than that
        self.first, self.last = text, n - 1
        self.queries, self.keys = queries, keys
        self.order, self.absent = order[: self.length], order[self.length :]
        self.count = len(bias)
        self.bias = bias.expand(self.batch * self.heads, -1, -1, -1)

    def _gather(self, x: Tensor, index: Tensor) -> Tensor:
        # A code that is not there is read as the last: no other query sees it.
        index = (index + self.first).clamp(max=self.last)
        return x.index_select(2, index).view(-1, self.count, len(index) // self.count, x.shape[-1])

    def of_queries(self, x: Tensor) -> Tensor:
        return self._gather(x, self.queries)

    def of_keys(self, x: Tensor) -> Tensor:
        return self._gather(x, self.keys)

    def of_gradients(self, x: Tensor) -> Tensor:
        """`of_queries` of the output's gradients: nothing flows from codes that are not there."""
        blocks = self.of_queries(x)
        blocks.view(self.batch, self.heads, -1, x.shape[-1])[:, :, self.absent] = 0
        return blocks

    def to_raster(self, x: Tensor) -> Tensor:
        """Queries' blocks back to [B, H, n, D]."""
        flat = x.reshape(self.batch, self.heads, -1, x.shape[-1])
        return flat.index_select(2, self.order)

    def sum_keys(self, x: Tensor) -> Tensor:
        """Keys' blocks back to [B, H, n, D]: a key that stands in several gets their sum."""
        flat = x.reshape(self.batch, self.heads, -1, x.shape[-1])
        total = flat.new_zeros(self.batch, self.heads, self.length, x.shape[-1])
        return total.index_add_(2, self.keys.clamp(max=self.length - 1), flat)


def _lse_dtype(q: Tensor) -> torch.dtype:
    return torch.float64 if q.dtype == torch.float64 else torch.float32
