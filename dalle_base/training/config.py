"""How long a run is, and how its optimiser moves: the `run` and `optimiser` parts of a config."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Annotated, Any

from dalle_base.common.bounds import (
    Above0,
    Bounds,
    From0,
    From1,
    Seed,
    Share,
    ShareBelow1,
    Weight,
)
from dalle_base.common.errors import UserError
from dalle_base.common.free import Free, Place
from dalle_base.common.schema import build
from dalle_base.training.optimisers import OPTIMISERS
from dalle_base.training.shares import is_share

PRECISIONS = ("no", "bf16", "fp16")
TRACKERS = ("auto", "tensorboard", "wandb", "none")
SCHEDULES = ("cosine", "plateau", "constant")
BatchSize = Annotated[int, Bounds(1, 2**20)]
Minutes = Annotated[float, Bounds(0, 1e7)]
KEPT = ("best", "last")
"""Which model of a run its folder holds: the best on held-out images, or the last."""


def check_keep(keep: str) -> None:
    """Raise `UserError` on an unknown choice of which model a run keeps."""
    if keep not in KEPT:
        raise UserError(f"keep is {keep!r}; use one of {', '.join(KEPT)}")


NON_FINITE, SPIKES, BUFFERS = ("stop", "skip"), ("say", "skip", "stop"), ("copy", "average")
SHARED = (
    *("parts", "ema_decay", "ema_every", "ema_buffers"),
    *("non_finite", "most_skips", "spike", "on_spike", "power_sgd", "power_sgd_start"),
)
"""Options of an optimiser that all parts of a model share."""


@dataclass
class RunConfig:
    """Length of a training run and what it writes."""

    out: Free[str] = "runs/unnamed"
    """Folder of the run; where it holds a checkpoint already, the run goes on from there."""
    updates: Free[From1] = 1000
    """Updates in all. Schedules may be written as shares of it: optimiser.decay_updates=100%."""
    passes: Annotated[float, Bounds(0, 1e9)] = 0.0
    """End after so many passes through the training images if that comes before run.updates, but
    not before a quarter of these; 0, or run.updates alone set: after run.updates."""
    shares: dict[str, Weight] = field(default_factory=dict)
    """What is a share of run.updates, by name. Filled in by itself where one is written."""
    minutes: Free[Minutes] = 0.0
    """Stop and save after this many minutes; the same command goes on. 0: no limit."""
    batch_size: Annotated[BatchSize, Place("batch")] = 32
    """Images that a process trains on at a time."""
    accumulate: Annotated[int, Bounds(1, 2**16), Place("batch")] = 1
    """Batches whose gradients add up to one update, where a larger batch does not fit."""
    shard: Free[bool] = False
    """Share parameters, gradients and optimiser out over the processes (FSDP2), where they do not
    fit each device; train_dalle.py only."""
    seed: Seed = 0
    """Seed of initialisation, order, augmentation and noise."""
    mixed_precision: Free[str] = "no"
    """no, bf16 or fp16 (with loss scaling), as in `accelerate`."""
    compile: Free[bool] = False
    """Compile the networks with torch.compile: a minute more at the start, faster updates."""
    log_every: Free[From1] = 20
    """Updates between two lines of metrics.jsonl."""
    evaluate_every: Free[From1] = 500
    """Updates between two measurements on held-out images, with an image written."""
    save_every: Free[From1] = 500
    """Updates between two checkpoints."""
    keep_last: Free[From1] = 1
    """How many checkpoints are kept: the last as `checkpoint`, and if more than one, each as
    `checkpoints/UPDATE` too. Where `checkpoint` is deleted, the run goes on from the last of those.
    """
    tracker: Free[str] = "auto"
    """Where figures and images go besides the run's folder: tensorboard, wandb (offline unless you
    have logged in), none, or auto: tensorboard where it is installed."""
    changed: Free[list[str]] = field(default_factory=list)
    """Options that a resumed run has on purpose otherwise than it began (`--change` fills it)."""

    def taken(self) -> dict[str, object]:
        """Return the settings that a device's memory depends on, by name."""
        return {
            "run.batch_size": self.batch_size,
            "run.accumulate": self.accumulate,
            "run.mixed_precision": self.mixed_precision,
        }

    def validate(self) -> None:
        """Raise `UserError` on impossible values."""
        for key, share in self.shares.items():
            if not is_share(key, share):
                raise UserError(f"run.shares.{key} is {share}: no share of what counts updates")
        choices = {"mixed_precision": PRECISIONS, "tracker": TRACKERS}
        for name, known in choices.items():
            if getattr(self, name) not in known:
                raise UserError(f"run.{name} is {getattr(self, name)!r}; use {', '.join(known)}")


@dataclass
class OptimiserConfig:
    """The optimiser, its step size, gradient clipping and the average of the parameters."""

    name: str = "adamw"
    """adamw (the paper) or muon (Muon for weights between hidden layers, AdamW for the rest); a
    name in OPTIMISERS."""
    lr: Above0 = 1e-4
    """Step size at the top of the schedule."""
    schedule: str = "cosine"
    """cosine (to final_lr), plateau (halved when the training loss stops falling) or constant."""
    final_lr: Weight = 1.25e-6
    """Step size at the end of the cosine."""
    decay_updates: From0 = 1_200_000
    """Updates over which the cosine falls."""
    warmup_updates: From0 = 0
    """Updates over which the step size first rises from 0, linear."""
    plateau_patience: From1 = 5000
    """Updates whose mean training loss is compared, for the plateau schedule."""
    plateau_threshold: ShareBelow1 = 0.002
    """Relative fall of that mean below which the step size is halved."""
    plateau_halvings: Annotated[int, Bounds(0, 1000)] = 5
    """How often it may be halved."""
    beta1: ShareBelow1 = 0.9
    """AdamW's β₁."""
    beta2: ShareBelow1 = 0.999
    """AdamW's β₂."""
    eps: Share = 1e-8
    """AdamW's ε."""
    weight_decay: Weight = 1e-4
    """AdamW's decoupled weight decay."""
    clip: Annotated[float, Bounds(0, math.inf)] = 0.0
    """Clip the gradient's global norm at this value; 0 leaves it alone."""
    ema_decay: ShareBelow1 = 0.999
    """Decay of the exponential moving average of the parameters."""
    ema_every: From1 = 1
    """Updates between two steps of that average."""
    ema_buffers: str = "copy"
    """What the average has of the model's buffers (statistics, a codebook that it averages itself):
    copy (as they are at the average's last step) or average (as parameters are)."""
    non_finite: Free[str] = "stop"
    """What becomes of an update whose loss or gradient is not finite: stop (the run ends as it was
    before that update) or skip (the update is left out)."""
    most_skips: Free[From0] = 10
    """Updates skipped in a row after which the run stops all the same."""
    spike: Free[Weight] = 0.0
    """A loss is a spike where it lies above its moving average by more than this many times its
    average deviation (10, say); 0: none is."""
    on_spike: Free[str] = "say"
    """What becomes of a spike: say (one line), skip (the update is left out as well) or stop."""
    power_sgd: Annotated[int, Bounds(0, 2**16)] = 0
    """Rank to which gradients are compressed between processes (PowerSGD; 896 in the paper's
    largest model); 0: they are exchanged whole."""
    power_sgd_start: Annotated[int, Bounds(2, 10**12)] = 1000
    """Updates before the first whose gradients are compressed."""
    parts: dict[str, Any] = field(default_factory=dict)
    """Parts of the model with an optimiser, step size, schedule and clipping of their own, by the
    start of their parameters' names: {image_head: {lr: 1e-3, clip: 1.0}}. The rest is as above."""

    def validate(self) -> None:
        """Raise `UserError` on impossible values."""
        OPTIMISERS.check("optimiser.name", self.name)
        if self.schedule not in SCHEDULES:
            raise UserError(
                f"optimiser.schedule is {self.schedule!r}; use one of {', '.join(SCHEDULES)}"
            )
        choices = {"non_finite": NON_FINITE, "on_spike": SPIKES, "ema_buffers": BUFFERS}
        for name, known in choices.items():
            if getattr(self, name) not in known:
                raise UserError(
                    f"optimiser.{name} is {getattr(self, name)!r}; use one of {', '.join(known)}"
                )
        for name in self.parts:
            self.part(name)

    def part(self, name: str) -> "OptimiserConfig":
        """Return the options of one of `parts`. Raises `UserError` on an impossible one."""
        changes, source = self.parts[name], f"optimiser.parts.{name}"
        if not isinstance(changes, Mapping):
            raise UserError(f"{source} is {changes!r}: write a mapping, such as {{lr: 1e-3}}")
        for key in SHARED:
            if key in changes:
                raise UserError(f"{source}.{key}: the whole model has one, optimiser.{key}")
        return build(replace(self, parts={}), changes, source)
