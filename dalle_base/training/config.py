"""How long a run is, and how its optimiser moves: the `run` and `optimiser` parts of a config."""

from dataclasses import dataclass

from dalle_base.common.errors import UserError
from dalle_base.training.optimisers import OPTIMISERS

PRECISIONS = ("no", "bf16", "fp16")
SCHEDULES = ("cosine", "plateau", "constant")


@dataclass
class RunConfig:
    """Length of a training run and what it writes."""

    out: str = "runs/unnamed"
    """Folder of the run; where it holds a checkpoint already, the run goes on from there."""
    updates: int = 1000
    """Updates in all."""
    minutes: float = 0.0
    """Stop and save after this many minutes; the same command goes on. 0: no limit."""
    batch_size: int = 32
    """Images in an update, for each process."""
    seed: int = 0
    """Seed of initialisation, order, augmentation and noise."""
    mixed_precision: str = "no"
    """no, bf16 or fp16 (with loss scaling), as in `accelerate`."""
    compile: bool = False
    """Compile the networks with torch.compile: a minute more at the start, faster updates."""
    log_every: int = 20
    """Updates between two lines of metrics.jsonl."""
    evaluate_every: int = 500
    """Updates between two measurements on held-out images, with an image written."""
    save_every: int = 500
    """Updates between two checkpoints."""

    def validate(self) -> None:
        """Raise `UserError` on impossible values."""
        for name in ("updates", "batch_size", "log_every", "evaluate_every", "save_every"):
            if getattr(self, name) < 1:
                raise UserError(f"run.{name} must be at least 1")
        if self.mixed_precision not in PRECISIONS:
            raise UserError(
                f"run.mixed_precision is {self.mixed_precision!r}; use {', '.join(PRECISIONS)}"
            )


@dataclass
class OptimiserConfig:
    """The optimiser, its step size, gradient clipping and the average of the parameters."""

    name: str = "adamw"
    """adamw (the paper) or muon (Muon for weights between hidden layers, AdamW for the rest); a
    name in OPTIMISERS."""
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
        OPTIMISERS.check("optimiser.name", self.name)
        if self.schedule not in SCHEDULES:
            raise UserError(
                f"optimiser.schedule is {self.schedule!r}; use one of {', '.join(SCHEDULES)}"
            )
        if self.lr <= 0:
            raise UserError("optimiser.lr must be above 0")
        if not 0 <= self.ema_decay < 1 or self.ema_every < 1:
            raise UserError("optimiser.ema_decay must be in [0, 1) and ema_every at least 1")
