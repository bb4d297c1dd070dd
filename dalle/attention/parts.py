"""Attention to one part of a query's keys, on a CPU: forward, and backward within the whole.

Two ways to the same: PyTorch's fused kernel, and explicit products, which on a CPU's bfloat16
units are several times faster as long as the scores fit the memory (docs/experiments.md). Shapes:
q, out and their gradients [B, H, n, D]; k, v and theirs [B, H, m, D]; lse [B, H, n], float32 (or
float64, for float64); bias, added to the scores, broadcasts to [B, H, n, m].
"""

import torch
from torch import Tensor

_fused_forward = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
_fused_backward = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward


def part_forward(
    q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None = None, causal: bool = False
) -> tuple[Tensor, Tensor]:
    """Return the attention to these keys alone and the log-sum-exp of its scores."""
    if q.dtype != torch.bfloat16:
        return _fused_forward(q, k, v, 0.0, causal, attn_mask=bias)
    scores = _scores(q, k, bias, causal)
    lse = scores.float().logsumexp(dim=-1)
    return (scores - lse[..., None]).exp().to(q.dtype) @ v, lse


def part_backward(
    grad: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    out: Tensor,
    lse: Tensor,
    bias: Tensor | None = None,
    causal: bool = False,
) -> tuple[Tensor, Tensor, Tensor]:
    """Return this part's share of the gradients of q, k and v.

    `grad` is that of the whole attention's output; `out` and `lse` are those of the whole.
    """
    if q.dtype != torch.bfloat16:
        return _fused_backward(grad, q, k, v, out, lse, 0.0, causal, attn_mask=bias)
    scores = _scores(q, k, bias, causal)
    share = (scores - lse[..., None]).exp().to(q.dtype)
    grad_share = grad @ v.transpose(-1, -2)
    row_sum = (grad * out).sum(dim=-1, keepdim=True)
    grad_scores = (grad_share - row_sum).mul_(share).mul_(q.shape[-1] ** -0.5)
    dq, dk = grad_scores @ k, grad_scores.transpose(-1, -2) @ q
    return dq, dk, share.transpose(-1, -2) @ grad


def _scores(q: Tensor, k: Tensor, bias: Tensor | None, causal: bool) -> Tensor:
    scores = (q @ k.transpose(-1, -2)).mul_(q.shape[-1] ** -0.5)
    if causal:
        ahead = torch.ones(scores.shape[-2:], dtype=torch.bool, device=q.device).triu_(1)
        scores.masked_fill_(ahead, -torch.inf)
    return scores if bias is None else scores.add_(bias)
