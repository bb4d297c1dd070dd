"""A run's folder, progress bar, metrics, interruption and resumption."""

import json
import signal
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import set_seed
from omegaconf import OmegaConf
from torch import Tensor
from tqdm import tqdm

from training.checkpoint import (
    CONFIG,
    TRAINING,
    read_training_state,
    read_weights,
    write_folder,
    write_model,
)
from training.config import read_yaml, to_yaml
from training.data import Shuffled
from training.errors import UserError
from training.memory import keep_freed_memory
from training.trainer import Trainer

PRECISIONS = ("no", "bf16", "fp16")
# What may differ between an interrupted run and the command that resumes it.
FREE_KEYS = {"out", "updates", "minutes", "compile", "log_every", "evaluate_every", "save_every"}


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
    """Pictures in an update, for each process."""
    seed: int = 0
    """Seed of initialisation, order, augmentation and noise."""
    mixed_precision: str = "no"
    """no, bf16 or fp16 (with loss scaling), as in `accelerate`."""
    compile: bool = False
    """Compile the networks with torch.compile: a minute more at the start, faster updates."""
    log_every: int = 20
    """Updates between two lines of metrics.jsonl."""
    evaluate_every: int = 500
    """Updates between two measurements on held-out pictures, with a picture written."""
    save_every: int = 500
    """Updates between two checkpoints."""

    def validate(self) -> None:
        """Raise `UserError` on impossible values."""
        for name in ("updates", "batch_size", "log_every", "evaluate_every", "save_every"):
            if getattr(self, name) < 1:
                raise UserError(f"run.{name} must be at least 1")
        if self.mixed_precision == "False":  # what YAML makes of a bare no
            self.mixed_precision = "no"
        if self.mixed_precision not in PRECISIONS:
            raise UserError(
                f"run.mixed_precision is {self.mixed_precision!r}; use {', '.join(PRECISIONS)}"
            )


class Run:
    """The bookkeeping around a training loop. `config` is the script's whole config."""

    def __init__(self, config: Any) -> None:
        self.config, self.options = config, config.run
        self.folder = Path(self.options.out)
        precision = self.options.mixed_precision
        try:
            self.accelerator = Accelerator(mixed_precision=precision)
        except ValueError as error:
            reason = str(error).splitlines()[0]
            raise UserError(f"run.mixed_precision={precision}: {reason}") from None
        set_seed(self.options.seed)
        keep_freed_memory()
        self.checkpoint = self.folder / "checkpoint"
        self.log_file = self.folder / "metrics.jsonl"
        self.trainer: Trainer
        self.extra: dict[str, Any] = {}
        """Plain values that a script wants back when it resumes (the best loss so far, say)."""
        self._sums: dict[str, float | Tensor] = {}
        self._count = 0
        self._shown: dict[str, str] = {}
        self._stop = threading.Event()
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(f"cannot write run.out={self.folder}: {error.strerror}") from None

    def resume(self, trainer: Trainer) -> None:
        """Attach the trainer; go on from the run's checkpoint if there is one."""
        self.trainer = trainer
        if not self.checkpoint.exists():
            return
        self._check_same_config()
        state = read_training_state(self.checkpoint)
        trainer.load_state_dict(state["trainer"], read_weights(self.checkpoint))
        self.extra = state["extra"]
        self._truncate_log(trainer.step)
        self.write(f"resumed {self.folder} at update {trainer.step}")

    def _check_same_config(self) -> None:
        before = _flatten(read_yaml(self.checkpoint / CONFIG))
        now = _flatten(OmegaConf.create(to_yaml(self.config)))
        for key in sorted(set(before) | set(now)):
            free = key.startswith("run.") and key.removeprefix("run.") in FREE_KEYS
            if before.get(key) != now.get(key) and not free:
                raise UserError(
                    f"{self.folder} holds a run with {key}={before.get(key)}, not "
                    f"{now.get(key)}; choose another run.out or delete that folder"
                )

    def _truncate_log(self, step: int) -> None:
        if self.log_file.exists() and self.accelerator.is_main_process:
            lines = self.log_file.read_text("utf-8").splitlines()
            # A line that a crash cut short has no closing brace.
            kept = [line for line in lines if line[-1:] == "}" and json.loads(line)["step"] <= step]
            self.log_file.write_text("".join(f"{line}\n" for line in kept), "utf-8")

    def updates(self) -> Iterator[int]:
        """Yield the numbers of the updates left to do, with a progress bar.

        Seeds torch's random numbers anew for each update, so that noise depends on the seed and
        the update alone. Ctrl-C (or SIGTERM) lets the current update finish, saves and ends.
        """
        started = time.monotonic()
        # Handlers can be set in the main thread only; elsewhere the caller keeps its own.
        main_thread = threading.current_thread() is threading.main_thread()
        signals = (signal.SIGINT, signal.SIGTERM) if main_thread else ()
        previous = {int(number): signal.getsignal(number) for number in signals}

        def stop_after_this_update(number: int, _: object) -> None:
            self._stop.set()
            signal.signal(number, previous[number])  # a second Ctrl-C does not wait

        for number in signals:
            signal.signal(number, stop_after_this_update)
        options = self.options
        self._bar = tqdm(
            total=options.updates,
            initial=self.trainer.step,
            disable=not self.accelerator.is_main_process,
            dynamic_ncols=True,
            mininterval=1,
        )
        saved = self.trainer.step
        try:
            while self.trainer.step < options.updates:
                step = self.trainer.step
                rank = self.accelerator.process_index
                seed = np.random.SeedSequence((options.seed, step, rank)).generate_state(2)
                torch.manual_seed(int(seed[0]) << 32 | int(seed[1]))
                yield step
                self._bar.update()
                late = options.minutes and time.monotonic() - started > options.minutes * 60
                if self._stop.is_set() or late or self.trainer.step % options.save_every == 0:
                    self.save()
                    saved = self.trainer.step
                if self._stop.is_set() or late:
                    why = "interrupted" if self._stop.is_set() else "time is up"
                    self.write(f"{why}: saved at update {saved}; the same command resumes")
                    raise SystemExit(130 if self._stop.is_set() else 0)
            if saved != self.trainer.step:
                self.save()
        finally:
            self._bar.close()
            for number, handler in previous.items():
                signal.signal(number, handler)

    def order(self, length: int) -> Shuffled:
        """Return the order in which this process goes through `length` pictures from here on."""
        return Shuffled(
            length,
            self.options.batch_size,
            self.options.seed,
            start=self.trainer.step,
            rank=self.accelerator.process_index,
            world=self.accelerator.num_processes,
        )

    def due(self, every: int) -> bool:
        """Return whether the update just taken is one of each `every`, or the last."""
        step = self.trainer.step
        return step % every == 0 or step == self.options.updates

    def log(self, metrics: Mapping[str, float | Tensor], now: bool = False) -> None:
        """Collect an update's metrics; their means are written each run.log_every updates.

        With `now` they are written at once as they are (measurements on held-out pictures).
        """
        if now:
            self._write_line({name: float(value) for name, value in metrics.items()})
            return
        for name, value in metrics.items():
            value = value.detach() if isinstance(value, Tensor) else value
            self._sums[name] = self._sums.get(name, 0.0) + value
        self._count += 1
        if self.due(self.options.log_every):
            means = {name: float(value) / self._count for name, value in self._sums.items()}
            self._sums, self._count = {}, 0
            self._write_line(means)

    def _write_line(self, figures: dict[str, float]) -> None:
        if not self.accelerator.is_main_process:
            return
        with self.log_file.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"step": self.trainer.step, **figures}) + "\n")
        self._shown |= {name: f"{value:.4g}" for name, value in figures.items()}
        self._bar.set_postfix(self._shown, refresh=False)

    def write(self, line: str) -> None:
        """Print a line without tearing the progress bar."""
        if self.accelerator.is_main_process:
            tqdm.write(line)

    def save(self) -> None:
        """Write the checkpoint: the averaged weights, the config, and all that resuming needs."""
        if not self.accelerator.is_main_process:
            return

        def contents(folder: Path) -> None:
            write_model(folder, self.trainer.average.state_dict(), to_yaml(self.config))
            state = {"trainer": self.trainer.state_dict(), "extra": self.extra}
            torch.save(state, folder / TRAINING)

        write_folder(self.checkpoint, contents)


def _flatten(config: Any, prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in config.items():
        if hasattr(value, "items"):
            flat |= _flatten(value, f"{prefix}{key}.")
        else:
            flat[prefix + key] = value
    return flat
