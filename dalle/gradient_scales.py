"""A scale for the gradient of each residual block, in training in 16 bits (section 2.4, figure 4).

Gradients of activations shrink from block to block until float16 has no numbers left for them, and
no single scale of the loss fits a deep model. So each block has its own. Its branch sees the
gradient of the residual stream times that scale; what it hands back is divided by it, and numbers
that are not finite are left out, so that a block whose scale is too large spoils no other's. The
stream and its gradient stay in 32 bits, as do all parameters and both heads.
"""

from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn

START, LEAST, MOST = 2.0**13, 2.0**7, 2.0**24
"""A scale at first, and its bounds; each times M, the parts into which the loss is divided."""
GROWTH, FALL = 2 ** (1 / 1000), 2**-0.5
"""What an update makes of a scale: where all of the block's gradients are finite, or not."""


class _Enter(torch.autograd.Function):
    """A branch's output in at least 32 bits; backward, its gradient times the scale."""

    @staticmethod
    def forward(ctx: Any, out: Tensor, scale: Tensor) -> Tensor:
        ctx.save_for_backward(scale)
        return _in_full(out)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        (scale,) = ctx.saved_tensors
        return gradients[0] * scale, None  # autograd rounds it to the type of the output


class _Leave(torch.autograd.Function):
    """A branch's input as it is; backward, its gradient without what is not finite, unscaled."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, scale: Tensor) -> Tensor:
        ctx.save_for_backward(scale)
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        (scale,) = ctx.saved_tensors
        return _in_full(gradients[0]).nan_to_num(nan=0.0, posinf=0.0, neginf=0.0) / scale, None


def _in_full(x: Tensor) -> Tensor:
    return x.to(torch.promote_types(x.dtype, torch.float32))


def scaled_branch(branch: Callable[[Tensor], Tensor], x: Tensor, scale: Tensor) -> Tensor:
    """`branch(x)`, [B, n, d], with gradients scaled inside it.

    The gradients of the branch's parameters stay scaled: `GradientScales.unscale` divides them.
    """
    return _Enter.apply(branch(_Leave.apply(x, scale)), scale)  # type: ignore[no-any-return]


def in_full(scales: "GradientScales | None", device: torch.device) -> AbstractContextManager[Any]:
    """A context for the heads, which have no scale: 32 bits, where branches have scales."""
    return nullcontext() if scales is None else torch.autocast(device.type, enabled=False)


class GradientScales(nn.Module):
    """The scales of a model's residual branches, and the rule by which they move (appendix D).

    A trainer calls `unscale` after the backward pass, and `update` once the update is taken or, if
    a gradient is not finite, skipped. Neither waits for the device.

    They are no part of a model's weights: its state has none of them, their own has all.
    """

    values: Tensor

    def __init__(self, branches: int, shares: int = 1) -> None:
        """Begin at the paper's scale.

        Args:
            branches: how many there are, two in each layer.
            shares: the paper's M. It divides each device's loss by their number M before gradients
                are added up, which the scales undo. Here a process's loss is the mean over its own
                batch, and what is averaged has 32 bits: 1, however many processes.
        """
        super().__init__()
        self.shares = shares
        self.register_buffer("values", torch.full((branches,), START * shares), persistent=False)
        self.good = torch.ones(branches, dtype=torch.bool)
        """Which branches had finite gradients only in the last update."""

    @staticmethod
    def branches(model: Any) -> list[list[nn.Parameter]]:
        """The parameters of each residual branch of a `Transformer`, in the scales' order."""
        parts = [
            part
            for block in model.blocks
            for part in (
                (block.attention_norm, block.attention),
                (block.mlp_norm, block.mlp_in, block.mlp_out),
            )
        ]
        return [[p for module in part for p in module.parameters()] for part in parts]

    @torch.no_grad()
    def unscale(self, branches: Iterable[list[nn.Parameter]]) -> None:
        """Divide the gradients of each branch's parameters by its scale; see which are finite."""
        good = []
        for scale, parameters in zip(self.values, branches, strict=True):
            gradients = [p.grad for p in parameters if p.grad is not None]
            if not gradients:
                good.append(torch.ones_like(scale, dtype=torch.bool))
                continue
            for gradient in gradients:
                gradient.div_(scale)
            norms = torch.stack([gradient.norm() for gradient in gradients])
            good.append(norms.isfinite().all())
        self.good = torch.stack(good)

    @torch.no_grad()
    def update(self) -> None:
        """Let each scale grow or fall."""
        self.values.mul_(torch.where(self.good, GROWTH, FALL))
        self.values.clamp_(LEAST * self.shares, MOST * self.shares)

    def mean(self) -> Tensor:
        """The geometric mean of all scales, a scalar on the device."""
        return self.values.log2().mean().exp2()

    def state_dict(self, *_: Any, **__: Any) -> dict[str, Any]:
        """Return what a resumed run needs."""
        return {"values": self.values.clone()}

    def load_state_dict(self, state: dict[str, Any], *_: Any, **__: Any) -> None:  # type: ignore[override]
        """Go on from `state_dict`."""
        self.values.copy_(state["values"])
