"""A run's folder, progress bar, metrics, interruption and resumption."""

import json
import math
import signal
import threading
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol, Self

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import set_seed
from torch import Tensor, distributed
from tqdm import tqdm

from dalle_base.common.checkpoint import (
    CONFIG,
    TRAINING,
    read_training_state,
    read_weights,
    write_model,
)
from dalle_base.common.config import from_layers, read_yaml, to_yaml
from dalle_base.common.errors import UserError
from dalle_base.common.files import prepare_folder, write_folder
from dalle_base.common.schema import to_mapping
from dalle_base.data.batches import Shuffled
from dalle_base.data.sources.base import Source
from dalle_base.data.text import TEXT, TextTokenizer
from dalle_base.data.text_training import learn_text
from dalle_base.training.memory import keep_freed_memory
from dalle_base.training.trainer import Trainer

# What may differ between an interrupted run and the command that resumes it.
FREE_KEYS = (
    *("run.out", "run.updates", "run.minutes", "run.compile", "run.mixed_precision"),
    *("run.log_every", "run.evaluate_every", "run.save_every"),
    *("previews", "sampling", "keep"),
)


class Stateful(Protocol):
    """What trains beside a run's model, and goes on where it was when the run is resumed."""

    def state_dict(self) -> dict[str, Any]:
        """Return what a resumed run needs: tensors, plain values and containers of them."""
        ...

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from `state_dict`; from {} where the checkpoint knows of nothing beside."""
        ...


class Run:
    """The bookkeeping around a training loop. `config` is the script's whole config.

    A context, at whose end the processes of a run on several devices end together.
    """

    def __init__(self, config: Any) -> None:
        self.config, self.options = config, config.run
        self.folder = prepare_folder(Path(self.options.out), "name another with run.out")
        precision = self.options.mixed_precision
        try:
            self.accelerator = Accelerator(mixed_precision=precision)
        except ValueError as error:
            _end_processes(wait=False)
            reason = str(error).splitlines()[0]
            raise UserError(f"run.mixed_precision={precision}: {reason}") from None
        set_seed(self.options.seed)
        keep_freed_memory()
        self.checkpoint = self.folder / "checkpoint"
        self.log_file = self.folder / "metrics.jsonl"
        self.trainer: Trainer
        self.beside: Stateful | None = None
        self.extra: dict[str, Any] = {}
        """Plain values that a script wants back when it resumes (the best loss so far, say)."""
        self._sums: dict[str, float | Tensor] = {}
        self._counts: dict[str, int] = {}
        self._shown: dict[str, str] = {}
        self._stop = threading.Event()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None
    ) -> None:
        # After an error nobody may be there to wait for.
        _end_processes(wait=kind is None or kind is SystemExit)

    def resume(self, trainer: Trainer, beside: Stateful | None = None) -> None:
        """Attach the trainer, and what trains beside its model, if anything.

        Both go on from the run's checkpoint if there is one.
        """
        self.trainer, self.beside = trainer, beside
        if not self.checkpoint.exists():
            return
        self._check_same_config()
        state = read_training_state(self.checkpoint)
        trainer.load_state_dict(state["trainer"], read_weights(self.checkpoint))
        if beside is not None:
            beside.load_state_dict(state.get("beside", {}))
        self.extra = state["extra"]
        self._truncate_log(trainer.step)
        self.write(f"resumed {self.folder} at update {trainer.step}")

    def _check_same_config(self) -> None:
        # As this version reads it: keys may have been renamed, or come to be, since then.
        stored = read_yaml(self.checkpoint / CONFIG)
        before = _flatten(
            to_mapping(from_layers(type(self.config), [stored], str(self.checkpoint)))
        )
        now = _flatten(to_mapping(self.config))
        for key in sorted(set(before) | set(now)):
            free = any(key == name or key.startswith(f"{name}.") for name in FREE_KEYS)
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
                late = 0 < options.minutes * 60 < time.monotonic() - started
                interrupted, late = self._any_process(self._stop.is_set(), late)
                if interrupted or late or self.trainer.step % options.save_every == 0:
                    self.save()
                    saved = self.trainer.step
                if interrupted or late:
                    why = "interrupted" if interrupted else "time is up"
                    self.write(f"{why}: saved at update {saved}; the same command resumes")
                    raise SystemExit(130 if interrupted else 0)
            if saved != self.trainer.step:
                self.save()
        finally:
            self._bar.close()
            for number, handler in previous.items():
                signal.signal(number, handler)

    def _any_process(self, *flags: bool) -> list[bool]:
        """Whether each flag is set in any process: all of them then stop after the same update."""
        if self.accelerator.num_processes == 1:
            return list(flags)
        counts = torch.tensor(flags, dtype=torch.float, device=self.accelerator.device)
        distributed.all_reduce(counts)
        return (counts > 0).tolist()

    def order(self, length: int) -> Shuffled:
        """Return the order in which this process goes through `length` images from here on."""
        return Shuffled(
            length,
            self.options.batch_size,
            self.options.seed,
            start=self.trainer.step,
            rank=self.accelerator.process_index,
            world=self.accelerator.num_processes,
        )

    def text_tokenizer(self, source: Source, vocab_size: int, init: str) -> TextTokenizer:
        """Return the run's text encoding: that of the folder `init`, or learned from captions."""
        if init:
            return TextTokenizer.load(Path(init) / TEXT)
        path = self.folder / TEXT
        with self.accelerator.main_process_first():
            if not path.exists():
                learn_text(source, vocab_size).save(path)
        return TextTokenizer.load(path)

    def due(self, every: int) -> bool:
        """Return whether the update just taken is one of each `every`, or the last."""
        step = self.trainer.step
        return step % every == 0 or step == self.options.updates

    def log(self, metrics: Mapping[str, float | Tensor], now: bool = False) -> None:
        """Collect an update's metrics; their means are written each run.log_every updates.

        A mean is over the updates that had the metric: some begin in the middle of a run.

        With `now` they are written at once as they are (measurements on held-out images).
        """
        if now:
            self._write_line({name: float(value) for name, value in metrics.items()})
            return
        for name, value in metrics.items():
            value = value.detach() if isinstance(value, Tensor) else value
            self._sums[name] = self._sums.get(name, 0.0) + value
            self._counts[name] = self._counts.get(name, 0) + 1
        if self.due(self.options.log_every):
            means = {name: float(value) / self._counts[name] for name, value in self._sums.items()}
            self._sums, self._counts = {}, {}
            self._write_line(means)

    def _write_line(self, figures: dict[str, float]) -> None:
        if not self.accelerator.is_main_process:
            return
        with self.log_file.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"step": self.trainer.step, **figures}) + "\n")
        self._shown |= {name: f"{value:.4g}" for name, value in figures.items()}
        self._bar.set_postfix(self._shown, refresh=False)

    def is_best(self, name: str, value: float, lower: bool = False) -> bool:
        """Whether a measured figure is the best of the run so far, resumed or not; remembers it.

        Args:
            name: of the figure, the same at each call.
            value: what was measured now.
            lower: whether lower is better.
        """
        best = self.best(name)
        better = math.isnan(best) or (value < best if lower else value > best)
        if better:
            self.extra[f"best_{name}"] = value
        return better

    def best(self, name: str) -> float:
        """The best value that `is_best` has seen of a figure; NaN before the first."""
        return self.extra.get(f"best_{name}", math.nan)

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
            if self.beside is not None:
                state["beside"] = self.beside.state_dict()
            torch.save(state, folder / TRAINING)

        write_folder(self.checkpoint, contents)


def _end_processes(wait: bool) -> None:
    """Leave the other processes of a run, after all have come to their end if `wait`."""
    # Left to the interpreter's exit, a process that is still connected aborts now and then.
    if not (distributed.is_available() and distributed.is_initialized()):
        return
    if wait:
        distributed.barrier()
    distributed.destroy_process_group()


def _flatten(config: Any, prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in config.items():
        if hasattr(value, "items"):
            flat |= _flatten(value, f"{prefix}{key}.")
        else:
            flat[prefix + key] = value
    return flat
