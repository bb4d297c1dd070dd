"""Structured attention as two parts merged by their log-sum-exps, over PyTorch's fused kernel.

An image query's keys are two disjoint parts: all of the text, and some codes. With outputs o_p and
log-sum-exps l_p of the parts, the whole is

    l = log sum_p exp(l_p),    o = sum_p exp(l_p - l) o_p.

Backward, a part's probabilities within the whole are exp(score - l), and the row sum that softmax's
gradient subtracts is that of the merged output: so the fused kernel's own backward, given o and l
in place of o_p and l_p, returns exactly a part's share of the gradients.
"""

from typing import Any

import torch
from torch import Tensor

from dalle.attention.cut import Cut

_part_forward = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
_part_backward = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward


# Custom operators, opaque to `torch.compile`: it would trace the views and undo what they save.
@torch.library.custom_op("dalle::two_part_attention", mutates_args=())
def _attend(
    q: Tensor, k: Tensor, v: Tensor, bias: Tensor, text: int, size: int, reach: int, step: int
) -> tuple[Tensor, Tensor]:
    """Return the attention and the log-sum-exp of its scores."""
    cut = Cut(text, size, reach, step)
    # All queries at once: under the causal mask, those of the image see all of the text.
    out, lse = _part_forward(q, k[:, :, :text], v[:, :, :text], 0.0, True)
    for one in range(len(q)):  # a batch's streams do not lie evenly, so each has its views
        within, within_lse = _part_forward(
            cut.queries(q[one]), cut.keys(k[one]), cut.keys(v[one]), 0.0, False, attn_mask=bias
        )
        across, across_lse = cut.queries(out[one]), cut.queries(lse[one, ..., None])[..., 0]
        share = torch.sigmoid(within_lse - across_lse)[..., None].to(q.dtype)
        across.lerp_(within, share)
        across_lse.copy_(torch.logaddexp(across_lse, within_lse))
    return out, lse


@_attend.register_fake
def _(q: Tensor, k: Tensor, v: Tensor, bias: Tensor, text: int, size: int, reach: int, step: int):
    return _part_forward(q, k[:, :, :text], v[:, :, :text], 0.0, True)


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
    cut = Cut(text, size, reach, step)
    dq, text_dk, text_dv = _part_backward(
        grad, q, k[:, :, :text], v[:, :, :text], out, lse, 0.0, True
    )
    dk, dv = torch.empty_like(k), torch.empty_like(v)
    for one in range(len(q)):
        within_dq, within_dk, within_dv = _part_backward(
            cut.queries(grad[one]),
            cut.queries(q[one]),
            cut.keys(k[one]),
            cut.keys(v[one]),
            cut.queries(out[one]),
            cut.queries(lse[one, ..., None])[..., 0],
            0.0,
            False,
            attn_mask=bias,
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
    dq, _, _ = _part_backward(grad, q, k[:, :, :text], v[:, :, :text], out, lse, 0.0, True)
    return dq, torch.empty_like(k), torch.empty_like(v)


def _save(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    q, k, v, bias, *ctx.cut = inputs
    ctx.save_for_backward(q, k, v, *output, bias)


def _gradients(ctx: Any, grad: Tensor, _: Tensor):
    """The log-sum-exp is for the backward pass alone: it is no output that has a gradient."""
    dq, dk, dv = _attend_backward(grad, *ctx.saved_tensors, *ctx.cut)
    return dq, dk, dv, *[None] * 5


_attend.register_autograd(_gradients, setup_context=_save)


def two_part_attention(q: Tensor, k: Tensor, v: Tensor, bias: Tensor, cut: Cut) -> Tensor:
    """Return the attention of [B, H, n, D], where `bias` [blocks, size, reach + size] is added to
    the scores within the blocks of `cut`."""
    return _attend(q, k, v, bias.expand(q.shape[1], -1, -1, -1), *cut)[0]
