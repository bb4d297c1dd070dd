"""Structured attention as one softmax over the scores of both parts side by side.

Explicit products, which on a CPU's bfloat16 units are several times faster than the fused kernel
(docs/experiments.md). A query's scores, for the text and for its own block, are one short row of a
buffer that exists for one stream at a time; backward, they are computed again and not kept.
"""

from typing import Any

import torch
from torch import Tensor

from dalle.attention.cut import Cut


def _probabilities(cut: Cut, q: Tensor, k: Tensor, bias: Tensor) -> Tensor:
    """One stream's [H, n, text + reach + size]: what a query gives to the text and to its block."""
    heads, n, width = q.shape
    text, scale = cut.text, width**-0.5
    scores = q.new_empty(heads, n, text + cut.reach + cut.size)
    of_text, of_image = scores[..., :text], scores[..., text:]
    torch.mul(q @ k[:, :text].transpose(1, 2), scale, out=of_text)
    later = torch.ones(text, text, dtype=torch.bool, device=q.device).triu_(1)
    of_text[:, :text].masked_fill_(later, -torch.inf)
    of_image[:, : text - 1].fill_(-torch.inf)  # the blocks begin at the text's last position
    within = cut.queries(q) @ cut.keys(k).transpose(-1, -2)
    torch.add(bias, within, alpha=scale, out=cut.queries(of_image))
    return scores.softmax(dim=-1)


# Custom operators, opaque to `torch.compile`: it would trace the views and undo what they save.
@torch.library.custom_op("dalle::one_softmax_attention", mutates_args=())
def _attend(
    q: Tensor, k: Tensor, v: Tensor, bias: Tensor, text: int, size: int, reach: int, step: int
) -> Tensor:
    """Return the attention."""
    cut, out = Cut(text, size, reach, step), torch.empty_like(q)
    for one in range(len(q)):
        share = _probabilities(cut, q[one], k[one], bias)
        torch.bmm(share[..., :text], v[one, :, :text], out=out[one])
        cut.queries(out[one]).add_(cut.queries(share[..., text:]) @ cut.keys(v[one]))
    return out


@_attend.register_fake
def _(q: Tensor, k: Tensor, v: Tensor, bias: Tensor, text: int, size: int, reach: int, step: int):
    return torch.empty_like(q)


@torch.library.custom_op("dalle::one_softmax_attention_backward", mutates_args=())
def _attend_backward(
    grad: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    bias: Tensor,
    text: int,
    size: int,
    reach: int,
    step: int,
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the gradients of q, k and v."""
    cut = Cut(text, size, reach, step)
    dq, dk, dv = (torch.empty_like(x) for x in (q, k, v))
    for one in range(len(q)):
        q1, k1, v1, grad1 = q[one], k[one], v[one], grad[one]
        share = _probabilities(cut, q1, k1, bias)
        d_scores = torch.empty_like(share)
        d_scores[..., :text] = grad1 @ v1[:, :text].transpose(1, 2)
        d_scores[:, : text - 1, text:] = 0
        cut.queries(d_scores[..., text:]).copy_(cut.queries(grad1) @ cut.keys(v1).transpose(-1, -2))
        d_scores = torch.ops.aten._softmax_backward_data(d_scores, share, -1, share.dtype)
        d_scores.mul_(q.shape[-1] ** -0.5)
        of_text, of_image = d_scores[..., :text], cut.queries(d_scores[..., text:])
        torch.bmm(of_text, k1[:, :text], out=dq[one])
        cut.queries(dq[one]).add_(of_image @ cut.keys(k1))
        cut.sum_keys(of_image.transpose(-1, -2) @ cut.queries(q1), dk[one])
        cut.sum_keys(cut.queries(share[..., text:]).transpose(-1, -2) @ cut.queries(grad1), dv[one])
        # Last, for the blocks began at the text's last position.
        dk[one, :, :text] = of_text.transpose(1, 2) @ q1
        dv[one, :, :text] = share[..., :text].transpose(1, 2) @ grad1
    return dq, dk, dv


@_attend_backward.register_fake
def _(
    grad: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    bias: Tensor,
    text: int,
    size: int,
    reach: int,
    step: int,
):
    return torch.empty_like(q), torch.empty_like(k), torch.empty_like(v)


def _save(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    q, k, v, bias, *ctx.cut = inputs
    ctx.save_for_backward(q, k, v, bias)


def _gradients(ctx: Any, grad: Tensor):
    return *_attend_backward(grad, *ctx.saved_tensors, *ctx.cut), *[None] * 5


_attend.register_autograd(_gradients, setup_context=_save)


def one_softmax_attention(q: Tensor, k: Tensor, v: Tensor, bias: Tensor, cut: Cut) -> Tensor:
    """Return the attention of [B, H, n, D], where `bias` [blocks, size, reach + size] is added to
    the scores within the blocks of `cut`."""
    return _attend(q, k, v, bias, *cut)
