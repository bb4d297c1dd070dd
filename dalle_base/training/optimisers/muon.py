"""Muon for the weights between hidden layers, AdamW for all others."""

import functools
from collections.abc import Callable, Collection, Iterable
from typing import Any

import torch
from torch import Tensor, nn

from dalle_base.training.config import OptimiserConfig
from dalle_base.training.optimisers.adamw import adamw_options

NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)
"""Coefficients of the quintic that drives singular values towards 1 (Jordan et al. 2024)."""
RMS = 0.2
"""Root mean square of an AdamW step of size 1, which a Muon step is scaled to (Liu et al. 2025)."""


@functools.cache
def product_type(device: str) -> torch.dtype:
    """The type in which a kind of device multiplies matrices fastest, bfloat16 or float32."""
    fast = device != "cpu" or torch.ops.mkldnn._is_mkldnn_bf16_supported()
    return torch.bfloat16 if fast else torch.float32


def orthogonalised(matrix: Tensor, steps: int = 5) -> Tensor:
    """Return a matrix [n, m] with its singular values brought near 1, by Newton-Schulz iteration.

    In bfloat16 where the device has units for it: its errors are far below those of the iteration's
    own end (0.7 to 1.2). Elsewhere it would be slow, so float32 takes its place.
    """
    a, b, c = NEWTON_SCHULZ
    x = matrix.to(product_type(matrix.device.type))
    wide = x.shape[0] <= x.shape[1]
    x = x if wide else x.T
    x = x / (x.norm() + 1e-7)  # no singular value above 1
    for _ in range(steps):
        gram = x @ x.T
        x = a * x + (b * gram + c * gram @ gram) @ x
    return (x if wide else x.T).to(matrix.dtype)


class Muon(torch.optim.AdamW):
    """AdamW, but parameters of groups with `orthogonal=True` take Muon's step.

    That is the Nesterov momentum of the gradient, as a matrix [out, everything else], with all of
    its singular values made equal, so that no direction in a layer's weights is left behind. The
    step's size is AdamW's, so both share one step-size schedule. Sources: Jordan et al. 2024,
    "Muon: An optimizer for hidden layers in neural networks"; Liu et al. 2025, arXiv 2502.16982.
    """

    def __init__(
        self, groups: Iterable[dict[str, Any]], *, momentum: float = 0.95, **options: Any
    ) -> None:
        super().__init__([{"orthogonal": False, **group} for group in groups], **options)
        self.momentum = momentum

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> Any:  # type: ignore[override]
        if closure is not None:
            raise ValueError("Muon takes no closure")
        for group in self.param_groups:
            for parameter in group["params"] if group["orthogonal"] else ():
                if parameter.grad is not None:
                    self._step_matrix(parameter, group["lr"], group["weight_decay"])
                    parameter.grad = None  # AdamW, below, leaves alone what has none
        return super().step()

    def _step_matrix(self, parameter: nn.Parameter, lr: float, weight_decay: float) -> None:
        assert parameter.grad is not None
        state = self.state[parameter]
        if not state:
            state["momentum"] = torch.zeros_like(parameter)
            state["step"] = torch.zeros(())  # unused, but AdamW looks for it in a loaded state
        gradient, mean = parameter.grad, state["momentum"]
        mean.lerp_(gradient, 1 - self.momentum)
        update = gradient.lerp(mean, self.momentum).flatten(1)
        scale = RMS * max(update.shape) ** 0.5
        parameter.mul_(1 - lr * weight_decay)
        parameter.add_(orthogonalised(update).view_as(parameter), alpha=-lr * scale)


def make(
    groups: list[dict[str, Any]], hidden: Collection[Tensor], config: OptimiserConfig
) -> torch.optim.Optimizer:
    """Return the optimiser: Muon for `hidden` parameters, AdamW for the others."""
    return Muon(_split(groups, set(hidden)), **adamw_options(config))


def _split(groups: list[dict[str, Any]], hidden: set[Tensor]) -> list[dict[str, Any]]:
    """Part each parameter group in two: the weights between hidden layers, and the others."""
    parts = []
    for group in groups:
        parameters = list(group["params"])
        for orthogonal in (True, False):
            part = [p for p in parameters if (p in hidden) == orthogonal]
            if part:
                parts.append({**group, "params": part, "orthogonal": orthogonal})
    return parts
