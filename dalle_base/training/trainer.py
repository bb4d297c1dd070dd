"""One model's optimisers, step-size schedules, parameter average and step counter."""

import copy
import math
from collections.abc import Iterator
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from dalle_base.common.checkpoint import load_into
from dalle_base.common.report import say
from dalle_base.training import processes
from dalle_base.training.config import OptimiserConfig
from dalle_base.training.parts import make_parts
from dalle_base.training.sharding import (
    ShardedAverage,
    check_shardable,
    fitting,
    put_together,
    shard,
    unsynchronised,
)
from dalle_base.training.watch import NOT_FINITE, DivergedError, Watch

if TYPE_CHECKING:
    from dalle_base.training.power_sgd import PowerSGD

M = TypeVar("M", bound=nn.Module)


class Trainer(Generic[M]):
    """Trains `model`; keeps `average`, the moving average of its parameters, which is what ships.

    The average's buffers (statistics, say, or a codebook that the model itself averages) are those
    of the model at its last step, unless they are to be averaged too.

    Sharded over processes, `average` has its values from `gather_average` to the next update only,
    and in the first process only; what is saved is whole and of the first process, too.

    Everything that a resumed run needs is in `state_dict`.
    """

    def __init__(
        self,
        model: M,
        config: OptimiserConfig,
        accelerator: Accelerator,
        complaint: str = NOT_FINITE,
        accumulate: int = 1,
        sharded: bool = False,
    ) -> None:
        """Prepare to train a model.

        Args:
            model: may have `hidden_weights`, for optimisers that treat these apart, and
                `gradient_scales`, which then take the place of loss scaling.
            config: optimiser, schedule and average.
            accelerator: the run's.
            complaint: what to say of a {what} (loss, gradient norm) that is not finite, with its
                {value} and {step}, and the {lr} at the top of the schedule.
            accumulate: how many losses `update` takes for a step.
            sharded: share the model out over the processes.

        Raises:
            UserError: parts of the config that the model does not have, a compression of what one
                process has nobody to send to, or sharding with what it does not go with.
        """
        self.config, self.accelerator, self.step = config, accelerator, 0
        self.accumulate, self._left, self._value = accumulate, 0, 0.0
        self.watch = Watch(config, complaint)
        self.figures: dict[str, float | Tensor] = {}
        """Of the last update: what a log wants to know of every trainer."""
        self.average: M = copy.deepcopy(model).eval().requires_grad_(False).to(accelerator.device)
        stored = self.average.state_dict()  # buffers that are not stored never change
        self._buffers = [name for name, _ in self.average.named_buffers() if name in stored]
        self.scales: Any = getattr(model, "gradient_scales", None)
        if self.scales is not None and accelerator.scaler is not None:
            accelerator.scaler = torch.amp.GradScaler(accelerator.device.type, enabled=False)
        self.model: nn.Module = accelerator.prepare_model(model, evaluation_mode=sharded)
        self._shards: ShardedAverage | None = None
        if sharded:
            for name in [config.name, *(config.part(part).name for part in config.parts)]:
                check_shardable(name, str(accelerator.mixed_precision), self.scales is not None)
            shard(model, accelerator.device)
            self._shards = ShardedAverage(self.average, model)
        self.parts = make_parts(model, config, accelerator)
        self.compression: PowerSGD | None = None
        if config.power_sgd:  # whose import takes torch's distributed hooks
            from dalle_base.training.power_sgd import compress_gradients

            self.compression = compress_gradients(self.model, config, accelerator)
        self._remember_buffers()

    @property
    def optimiser(self) -> Any:
        """The optimiser of all that no part of the config has taken."""
        return self.parts[""].optimiser

    @property
    def lr(self) -> float:
        """Step size of the coming update."""
        return self.parts[""].lr(self.step)

    @property
    def midway(self) -> bool:
        """Whether `update` waits for further losses before it takes a step."""
        return self._left > 0

    def micro_batches(self, *batch: Tensor) -> Iterator[tuple[Tensor, ...]]:
        """Yield the parts of a batch of tensors [B, ...] whose losses `update` takes in turn.

        Between processes gradients are exchanged at the last.
        """
        split = [tensor.chunk(self.accumulate) for tensor in batch]
        for number, part in enumerate(zip(*split, strict=True)):
            self._left = len(split[0]) - number - 1
            with self._alone() if self._left else nullcontext():
                yield part

    def _alone(self) -> Any:
        if self._shards is None:
            return self.accelerator.no_sync(self.model)
        return unsynchronised(self.model)

    def update(self, loss: Tensor) -> float:
        """Take one optimiser step, or skip it where the config says so; return the loss.

        The loss is the mean over processes. Of a batch in parts it is each part's, and the last one
        takes the step. Raises `DivergedError` if it is to stop. Parameters, buffers and all else
        are then what they were before the update, so that this state can be saved.
        """
        self.accelerator.backward(loss / self.accumulate if self.accumulate > 1 else loss)
        if self._left:
            value = processes.mean(loss.detach()).item()
            self._value += value / self.accumulate
            return value
        norms = self._norms()
        value, *lengths = self._fetch(loss, *norms)
        whole, self._value = self._value + value / self.accumulate, 0.0
        taken = self._judge(whole, math.hypot(*lengths))
        if taken:
            for part, length in zip(self.parts.values(), norms, strict=True):
                part.step(self.step, length, whole)
        if self._scaler is not None:
            self._scaler.update()
        self._end_update(taken)
        return value

    def _norms(self) -> list[Tensor]:
        """The norms of the gradients of each part, as they are without any scale."""
        scaler = self._scaler
        if scaler is not None:
            for part in self.parts.values():
                scaler.unscale_(part.plain)
        if self.scales is not None:
            own = self.accelerator.unwrap_model(self.model)
            self.scales.unscale(self.scales.branches(own))
        return [part.norm() for part in self.parts.values()]

    def _judge(self, value: float, norm: float) -> bool:
        """Whether to take an update whose loss and gradient norm are these; set its `figures`."""
        scaled = self._scaler is not None or self.scales is not None
        try:
            taken, said = self.watch.judge(value, norm, self.step, scaled)
        except DivergedError:
            self._give_up()
            raise
        if said and self.accelerator.is_main_process:
            say(said)
        self.figures = {"lr": self.lr}
        if math.isfinite(norm):
            self.figures["gradient_norm"] = norm
        if scaled or "skip" in (self.config.non_finite, self.config.on_spike):
            self.figures["skipped"] = float(not taken)
        if self.scales is not None:
            self.figures["gradient_scale"] = self.scales.mean()
            self.scales.update()
        if self.compression is not None:
            self.figures["compression"] = self.compression.rate()
        return taken

    @property
    def skipped(self) -> bool:
        """Whether the last update was skipped."""
        return self.watch.in_a_row > 0

    @property
    def _scaler(self) -> Any:
        scaler = self.accelerator.scaler
        return scaler if scaler is not None and scaler.is_enabled() else None

    def _fetch(self, *scalars: Tensor) -> list[float]:
        """Their means over all processes, in the update's only synchronisation."""
        dtype = torch.promote_types(scalars[0].dtype, torch.float32)
        figures = [scalar.detach().to(self.accelerator.device, dtype) for scalar in scalars]
        return processes.mean(torch.stack(figures)).tolist()

    def _give_up(self) -> None:
        """Forget an update that is not taken."""
        self._left, self._value = 0, 0.0
        for part in self.parts.values():
            part.plain.zero_grad(set_to_none=True)
        own = self.accelerator.unwrap_model(self.model)
        for name, kept in self._kept.items():
            own.get_buffer(name).copy_(kept)
        if self.compression is not None:
            self.compression.forget()

    def _end_update(self, taken: bool) -> None:
        self.step += 1
        if not taken:
            self._give_up()
            return
        for part in self.parts.values():
            part.plain.zero_grad(set_to_none=True)
        if self.step % self.config.ema_every == 0:
            self._average()
        self._remember_buffers()

    @torch.no_grad()
    def _remember_buffers(self) -> None:
        # A forward pass writes to them, also one that comes to nothing finite.
        own = self.accelerator.unwrap_model(self.model)
        self._kept = {name: own.get_buffer(name).clone() for name in self._buffers}

    @torch.no_grad()
    def _average(self) -> None:
        # A young average would remember the initialisation; this ramp forgets it.
        taken = self.step // self.config.ema_every
        decay = min(self.config.ema_decay, (1 + taken) / (10 + taken))
        own = self.accelerator.unwrap_model(self.model)
        means = self.average.parameters()
        if self._shards is not None:
            self._shards.drop()
            means = self._shards.parts
        for mean, value in zip(means, own.parameters(), strict=True):
            mean.lerp_(value, 1 - decay)
        for name in self._buffers:
            mean, value = self.average.get_buffer(name), own.get_buffer(name)
            if self.config.ema_buffers == "average" and mean.is_floating_point():
                mean.lerp_(value, 1 - decay)
            else:
                mean.copy_(value)

    def gather_average(self) -> None:
        """Give `average` its values, where it is sharded. All processes call this."""
        if self._shards is not None:
            self._shards.gather()

    def average_weights(self) -> dict[str, Tensor]:
        """Return the average's `state_dict`, whole. All processes call this."""
        return self.average.state_dict() if self._shards is None else self._shards.weights()

    def state_dict(self) -> dict[str, Any]:
        """Return what a resumed run needs, tensors and plain numbers only.

        All processes call this; of what is shared out the first has all of it.
        """
        if self.compression is not None:
            self.compression.gather()
        parts = {name: part.state_dict() for name, part in self.parts.items()}
        state = {
            "step": self.step,
            "model": self.accelerator.unwrap_model(self.model).state_dict(),
            **parts.pop(""),
            "parts": parts,
            "watch": self.watch.state_dict(),
        }
        for name, held in self._further().items():
            state[name] = held.state_dict()
        return state if self._shards is None else put_together(state)

    def _further(self) -> dict[str, Any]:
        """What only some runs have beside."""
        further = {
            "scaler": self._scaler,
            "gradient_scales": self.scales,
            "compression": self.compression,
        }
        return {name: held for name, held in further.items() if held is not None}

    def load_state_dict(self, state: dict[str, Any], average: dict[str, Tensor]) -> None:
        """Go on from `state_dict` and the average's weights."""
        model, own = self.accelerator.unwrap_model(self.model), state["model"]
        if self._shards is not None:
            own = fitting(own, model.state_dict())
        load_into(model, own, "the run's checkpoint")
        self._load_average(average)
        for name, part in self.parts.items():
            part.load_state_dict(state["parts"][name] if name else state, self._shards is not None)
        # Checkpoints of earlier versions lack the rest.
        self.watch.load_state_dict(state.get("watch", {}))
        for name, held in self._further().items():
            if name in state:
                held.load_state_dict(state[name])
        self.step = state["step"]
        self._remember_buffers()

    def _load_average(self, average: dict[str, Tensor]) -> None:
        if self._shards is None:
            load_into(self.average, average, "the run's checkpoint")
            return
        self._shards.load(average)
        for name in self._buffers:
            self.average.get_buffer(name).copy_(average[name])
