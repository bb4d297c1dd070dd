"""The parts of a model that are optimised apart: each has its optimiser, schedule and clipping."""

from typing import Any

from accelerate import Accelerator
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from torch.nn.utils import clip_grads_with_norm_, get_total_norm

from dalle_base.common.errors import UserError
from dalle_base.training.config import OptimiserConfig
from dalle_base.training.decay import decay_groups
from dalle_base.training.optimiser_state import load_optimiser
from dalle_base.training.optimisers import OPTIMISERS
from dalle_base.training.schedules import Plateau, cosine, warmup
from dalle_base.training.sharding import fitting_optimiser


class Part:
    """Parameters that one optimiser steps."""

    def __init__(
        self,
        groups: list[dict[str, Any]],
        hidden: list[Tensor],
        config: OptimiserConfig,
        accelerator: Accelerator,
    ) -> None:
        """Prepare to optimise.

        Args:
            groups: the parameters, with their weight decay.
            hidden: weights of theirs between hidden layers.
            config: optimiser, schedule, clipping.
            accelerator: the run's.
        """
        self.config = config
        self.parameters: list[nn.Parameter] = [p for group in groups for p in group["params"]]
        self.optimiser = accelerator.prepare_optimizer(
            OPTIMISERS[config.name](groups, hidden, config)
        )
        self.plateau = Plateau(
            config.plateau_patience, config.plateau_threshold, config.plateau_halvings
        )

    def lr(self, step: int) -> float:
        """Step size of an update."""
        config = self.config
        factor = warmup(step, config.warmup_updates)
        if config.schedule == "cosine":
            return factor * cosine(step, config.decay_updates, config.lr, config.final_lr)
        return factor * config.lr * (self.plateau.factor if config.schedule == "plateau" else 1)

    def norm(self) -> Tensor:
        """The norm of the gradient as it is now, a scalar on its device."""
        total = get_total_norm([p.grad for p in self.parameters if p.grad is not None])
        return total.full_tensor() if isinstance(total, DTensor) else total

    def step(self, step: int, norm: Tensor, loss: float) -> None:
        """Take update `step`, whose gradient has a norm and whose loss has a value."""
        for group in self.optimiser.param_groups:
            group["lr"] = self.lr(step)
        if self.config.clip:
            clip_grads_with_norm_(self.parameters, self.config.clip, norm)
        # Not by accelerate's wrapper: it looks, at the cost of a synchronisation, for gradients
        # that are not finite, which the norm has told already.
        self.plain.step()
        if self.config.schedule == "plateau":
            self.plateau.update(loss)

    @property
    def plain(self) -> Any:
        """The optimiser without accelerate's wrapper."""
        return getattr(self.optimiser, "optimizer", self.optimiser)

    def state_dict(self) -> dict[str, Any]:
        """Return what a resumed run needs."""
        return {"optimiser": self.optimiser.state_dict(), "plateau": self.plateau.state_dict()}

    def load_state_dict(self, state: dict[str, Any], sharded: bool = False) -> None:
        """Go on from `state_dict`, of which this process takes its share if `sharded`.

        Raises `UserError` if its parameters were others.
        """
        optimiser = state["optimiser"]
        if sharded:
            optimiser = fitting_optimiser(optimiser, self.optimiser.param_groups)
        try:
            load_optimiser(self.optimiser, optimiser)
        except ValueError:
            raise UserError(
                "the run's checkpoint was written by a version whose parameters were grouped "
                "otherwise: start from its weights with init=... in another run.out"
            ) from None
        self.plateau.load_state_dict(state["plateau"])


def make_parts(
    model: nn.Module, config: OptimiserConfig, accelerator: Accelerator
) -> dict[str, Part]:
    """Return a model's parts by name: "" is what `config.parts` leaves, and is the first.

    Raises `UserError`: a name that no parameter has, or parts that leave nothing.
    """
    owners = _owners(model, list(config.parts))
    hidden = list(getattr(model, "hidden_weights", list)())
    parts = {}
    for name in ("", *config.parts):
        options = config.part(name) if name else config
        own = [
            {**group, "params": [p for p in group["params"] if owners[p] == name]}
            for group in decay_groups(model, options.weight_decay)
        ]
        if name:  # the rest keeps an empty group, as checkpoints have it
            own = [group for group in own if group["params"]]
        if not any(group["params"] for group in own):
            raise UserError(f"optimiser.parts: {_nothing(name, model)}")
        parts[name] = Part(own, [p for p in hidden if owners[p] == name], options, accelerator)
    return parts


def _owners(model: nn.Module, names: list[str]) -> dict[Tensor, str]:
    """The part of each parameter: the longest name that its own name starts with."""
    owners: dict[Tensor, str] = {}
    for path, parameter in model.named_parameters():
        fitting = [name for name in names if path == name or path.startswith(f"{name}.")]
        owners[parameter] = max(fitting, key=len, default="")
    return owners


def _nothing(name: str, model: nn.Module) -> str:
    if not name:
        return "they leave no parameter to the model's own optimiser: name one less"
    known = ", ".join(dict.fromkeys(path.split(".")[0] for path, _ in model.named_parameters()))
    return f"no parameter's name starts with {name!r}; the model has {known}"
