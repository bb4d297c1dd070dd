"""One model's optimiser, step-size schedule, parameter average and step counter."""

import copy
import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from training.checkpoint import load_into
from training.errors import UserError
from training.muon import Muon
from training.schedules import Plateau, cosine, warmup

M = TypeVar("M", bound=nn.Module)
SCHEDULES = ("cosine", "plateau", "constant")
OPTIMISERS: dict[str, Callable[..., torch.optim.Optimizer]] = {
    "adamw": torch.optim.AdamW,
    "muon": Muon,
}


@dataclass
class OptimiserConfig:
    """The optimiser, its step size, gradient clipping and the average of the parameters."""

    name: str = "adamw"
    """adamw (the paper) or muon (Muon for weights between hidden layers, AdamW for the rest)."""
    lr: float = 1e-4
    """Step size at the top of the schedule."""
    schedule: str = "cosine"
    """cosine (to final_lr), plateau (halved when the training loss stops falling) or constant."""
    final_lr: float = 1.25e-6
    """Step size at the end of the cosine."""
    decay_updates: int = 1_200_000
    """Updates over which the cosine falls."""
    warmup_updates: int = 0
    """Updates over which the step size first rises from 0, linear."""
    plateau_patience: int = 5000
    """Updates whose mean training loss is compared, for the plateau schedule."""
    plateau_threshold: float = 0.002
    """Relative fall of that mean below which the step size is halved."""
    plateau_halvings: int = 5
    """How often it may be halved."""
    beta1: float = 0.9
    """AdamW's β₁."""
    beta2: float = 0.999
    """AdamW's β₂."""
    eps: float = 1e-8
    """AdamW's ε."""
    weight_decay: float = 1e-4
    """AdamW's decoupled weight decay."""
    clip: float = 0.0
    """Clip the gradient's global norm at this value; 0 leaves it alone."""
    ema_decay: float = 0.999
    """Decay of the exponential moving average of the parameters."""
    ema_every: int = 1
    """Updates between two steps of that average."""

    def validate(self) -> None:
        """Raise `UserError` on impossible values."""
        if self.name not in OPTIMISERS:
            raise UserError(f"optimiser.name is {self.name!r}; use one of {', '.join(OPTIMISERS)}")
        if self.schedule not in SCHEDULES:
            raise UserError(
                f"optimiser.schedule is {self.schedule!r}; use one of {', '.join(SCHEDULES)}"
            )
        if self.lr <= 0:
            raise UserError("optimiser.lr must be above 0")
        if not 0 <= self.ema_decay < 1 or self.ema_every < 1:
            raise UserError("optimiser.ema_decay must be in [0, 1) and ema_every at least 1")


class Trainer(Generic[M]):
    """Trains `model`; keeps `average`, the moving average of its parameters, which is what ships.

    Everything that a resumed run needs is in `state_dict`.
    """

    def __init__(
        self,
        model: M,
        config: OptimiserConfig,
        accelerator: Accelerator,
        parameter_groups: Iterable[dict[str, Any]] | None = None,
        hidden: Iterable[Tensor] = (),
    ) -> None:
        """`hidden` are the weights between hidden layers, for optimisers that ask."""
        self.config, self.accelerator, self.step = config, accelerator, 0
        self.average: M = copy.deepcopy(model).eval().requires_grad_(False).to(accelerator.device)
        groups = list(parameter_groups or [{"params": model.parameters()}])
        optimiser = OPTIMISERS[config.name](
            groups if config.name == "adamw" else _split(groups, set(hidden)),
            lr=config.lr,
            betas=(config.beta1, config.beta2),
            eps=config.eps,
            weight_decay=config.weight_decay,
        )
        self.model: nn.Module = accelerator.prepare_model(model)
        self.optimiser = accelerator.prepare_optimizer(optimiser)
        self.plateau = Plateau(
            config.plateau_patience, config.plateau_threshold, config.plateau_halvings
        )

    @property
    def lr(self) -> float:
        """Step size of the coming update."""
        config = self.config
        factor = warmup(self.step, config.warmup_updates)
        if config.schedule == "cosine":
            return factor * cosine(self.step, config.decay_updates, config.lr, config.final_lr)
        return factor * config.lr * (self.plateau.factor if config.schedule == "plateau" else 1)

    def update(self, loss: Tensor) -> float:
        """Take one optimiser step and return the loss. Raises `UserError` if it is not finite.

        The parameters are untouched by a non-finite loss, so the last good state can be saved.
        """
        self.accelerator.backward(loss)
        value = loss.item()  # the update's only synchronisation, with its work queued already
        if not math.isfinite(value):
            self.optimiser.zero_grad(set_to_none=True)
            raise UserError(
                f"the loss is {value} at update {self.step}; lower optimiser.lr or set "
                "optimiser.clip, then resume from the last checkpoint"
            )
        for group in self.optimiser.param_groups:
            group["lr"] = self.lr
        if self.config.clip:
            self.accelerator.clip_grad_norm_(self.model.parameters(), self.config.clip)
        self.optimiser.step()
        self.optimiser.zero_grad(set_to_none=True)
        if self.config.schedule == "plateau":
            self.plateau.update(value)
        self.step += 1
        if self.step % self.config.ema_every == 0:
            self._average()
        return value

    @torch.no_grad()
    def _average(self) -> None:
        # A young average would remember the initialisation; this ramp forgets it.
        taken = self.step // self.config.ema_every
        decay = min(self.config.ema_decay, (1 + taken) / (10 + taken))
        own = self.accelerator.unwrap_model(self.model).parameters()
        for mean, value in zip(self.average.parameters(), own, strict=True):
            mean.lerp_(value, 1 - decay)

    def state_dict(self) -> dict[str, Any]:
        """Return what a resumed run needs, tensors and plain numbers only."""
        return {
            "step": self.step,
            "model": self.accelerator.unwrap_model(self.model).state_dict(),
            "optimiser": self.optimiser.state_dict(),
            "plateau": self.plateau.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any], average: dict[str, Tensor]) -> None:
        """Go on from `state_dict` and the average's weights."""
        load_into(self.accelerator.unwrap_model(self.model), state["model"], "the run's checkpoint")
        load_into(self.average, average, "the run's checkpoint")
        self.optimiser.load_state_dict(state["optimiser"])
        self.plateau.load_state_dict(state["plateau"])
        self.step = state["step"]


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
