"""One model's optimiser, step-size schedule, parameter average and step counter."""

import copy
import math
from typing import Any, Generic, TypeVar

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from dalle_base.common.checkpoint import load_into
from dalle_base.common.errors import UserError
from dalle_base.training.config import OptimiserConfig
from dalle_base.training.decay import decay_groups
from dalle_base.training.optimisers import OPTIMISERS
from dalle_base.training.schedules import Plateau, cosine, warmup

M = TypeVar("M", bound=nn.Module)

NOT_FINITE = (
    "the loss is {value} at update {step}; lower optimiser.lr or set optimiser.clip, then resume "
    "from the last checkpoint"
)


class Trainer(Generic[M]):
    """Trains `model`; keeps `average`, the moving average of its parameters, which is what ships.

    The average's buffers (statistics, say, or a codebook that the model itself averages) are those
    of the model at its last step.

    Everything that a resumed run needs is in `state_dict`.
    """

    def __init__(
        self,
        model: M,
        config: OptimiserConfig,
        accelerator: Accelerator,
        complaint: str = NOT_FINITE,
    ) -> None:
        """Prepare to train a model.

        Args:
            model: may have `hidden_weights`, for optimisers that treat these apart.
            config: optimiser, schedule and average.
            accelerator: the run's.
            complaint: what to say of a loss that is not finite, with its {value} and {step}.
        """
        self.complaint = complaint
        self.config, self.accelerator, self.step = config, accelerator, 0
        self.average: M = copy.deepcopy(model).eval().requires_grad_(False).to(accelerator.device)
        stored = self.average.state_dict()  # buffers that are not stored never change
        self._buffers = [name for name, _ in self.average.named_buffers() if name in stored]
        groups = decay_groups(model, config.weight_decay)
        hidden = getattr(model, "hidden_weights", list)()
        optimiser = OPTIMISERS[config.name](groups, hidden, config)
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
            raise UserError(self.complaint.format(value=value, step=self.step))
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
        own = self.accelerator.unwrap_model(self.model)
        for mean, value in zip(self.average.parameters(), own.parameters(), strict=True):
            mean.lerp_(value, 1 - decay)
        for name in self._buffers:
            self.average.get_buffer(name).copy_(own.get_buffer(name))

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
        try:
            self.optimiser.load_state_dict(state["optimiser"])
        except ValueError:
            raise UserError(
                "the run's checkpoint was written by a version whose parameters were grouped "
                "otherwise: start from its weights with init=... in another run.out"
            ) from None
        self.plateau.load_state_dict(state["plateau"])
        self.step = state["step"]
