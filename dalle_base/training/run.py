"""A run's folder, progress bar, metrics, interruption and resumption."""

import contextlib
import json
import math
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol, Self

import torch
from accelerate.utils import set_seed
from PIL import Image
from torch import Tensor
from tqdm import tqdm

from dalle_base.common.checkpoint import (
    TRAINING,
    WEIGHTS,
    read_training_state,
    read_weights,
    write_model,
)
from dalle_base.common.config import to_yaml
from dalle_base.common.errors import UserError
from dalle_base.common.files import prepare_folder, unwritable, write_folder
from dalle_base.common.fingerprints import check_seal, file_fingerprint, seal
from dalle_base.common.images import save_image
from dalle_base.common.model_folders import find_model
from dalle_base.common.progress import Forgiving
from dalle_base.data.batches import Shuffled
from dalle_base.data.sources.base import Source
from dalle_base.data.text import TEXT, TextTokenizer
from dalle_base.data.text_training import learn_text
from dalle_base.training import processes
from dalle_base.training.banner import banner
from dalle_base.training.ending import closing_line
from dalle_base.training.keeping import keep_checkpoint, restore_checkpoint
from dalle_base.training.launch import connect, leave, lost_process, wants_sharding
from dalle_base.training.memory import keep_freed_memory
from dalle_base.training.meter import Meter
from dalle_base.training.resuming import CHANGES, check_resumed, trim_log
from dalle_base.training.stopping import StopSignals
from dalle_base.training.summary import write_summary
from dalle_base.training.tracking import Tracking, choose_tracker
from dalle_base.training.trainer import Trainer
from dalle_base.training.watch import DivergedError

BAR = "{l_bar}{bar}| {n_fmt}/{total_fmt} [{elapsed}<{remaining}{postfix}]"


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

    def __init__(self, config: Any, shards: bool = False) -> None:
        """Prepare a run.

        Args:
            config: the script's.
            shards: whether the script can share its model out over processes.
        """
        self.config, self.options = config, config.run
        sharded = self.options.shard or wants_sharding()
        if sharded and not shards:
            raise UserError(
                "only train_dalle.py can share its model out (run.shard, or FSDP by accelerate): "
                "use configs/accelerate/ddp.yaml, in which each process holds all of it"
            )
        self._tracker = choose_tracker(self.options.tracker)
        self.folder = prepare_folder(Path(self.options.out), "name another with run.out")
        self.accelerator = connect(self.options.mixed_precision)
        self.sharded = sharded and processes.several()
        """Whether the model is to be shared out over the processes: a single one holds it all."""
        set_seed(self.options.seed)
        keep_freed_memory()
        self.checkpoint = self.folder / "checkpoint"
        self.log_file = self.folder / "metrics.jsonl"
        self.trainer: Trainer
        self.beside: Stateful | None = None
        self._tracking = Tracking("", self.folder, config, 0)
        self.extra: dict[str, Any] = {}
        """Plain values that a script wants back when it resumes (the best loss so far, say)."""
        self.fed: dict[str, str] = {}
        """Fingerprints of what the run learns from, by names that `Place` marks options with."""
        self._sums: dict[str, float | Tensor] = {}
        self._counts: dict[str, int] = {}
        self._shown: dict[str, str] = {}
        self._telling = ""
        self._silent = True
        self._current = -1
        each = self.options.batch_size * self.options.accumulate
        self.batch_size = each * self.accelerator.num_processes
        """Images in an update, over all processes."""
        self._meter = Meter(self.accelerator.device, self.batch_size)
        self._signals = StopSignals()
        self._began = 0
        with self.accelerator.main_process_first():
            if self.accelerator.is_main_process:
                restore_checkpoint(self.checkpoint, self.write)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None
    ) -> None:
        if isinstance(error, DivergedError):
            self._save_before_failure()
        # After an error nobody may be there to wait for.
        lost = lost_process(error)
        leave(orderly=kind is None or kind is SystemExit)
        if lost is not None:
            raise lost from None

    def _save_before_failure(self) -> None:
        """Keep what the updates before one that went wrong have come to."""
        # What trains beside the model may fail after it: then the two are not of one update.
        if self.trainer.step == self._current:
            self.save()
            self.write(f"saved {self.folder} at update {self.trainer.step}")

    def introduce(self, training: str, held_out: int, telling: str = "", tokens: int = 0) -> None:
        """Say what this run is, before its first update.

        Args:
            training: how many images are trained on, as a stream may not say.
            held_out: images that are measured.
            telling: the figure that the progress bar shows beside loss, step size and speed.
            tokens: that the model reads of an image, its caption included; 0: it reads none.
        """
        self._telling = telling
        self._meter = Meter(self.accelerator.device, self.batch_size, tokens)
        self.write(banner(self, training, held_out))

    def resume(self, trainer: Trainer, beside: Stateful | None = None) -> None:
        """Attach the trainer, and what trains beside its model, if anything.

        Both go on from the run's checkpoint if there is one.
        """
        self.trainer, self.beside = trainer, beside
        self.fed |= self._in_an_update()
        if not self.checkpoint.exists():
            self._begin_log()
            return
        state = read_training_state(self.checkpoint)
        check_seal(self.checkpoint, names=(WEIGHTS,))
        changes = check_resumed(self.checkpoint, self.config, state.get("fed", {}), self.fed)
        trainer.load_state_dict(state["trainer"], read_weights(self.checkpoint))
        if beside is not None:
            beside.load_state_dict(state.get("beside", {}))
        self.extra = state["extra"]
        self._resume_log(changes, int(state.get("processes") or self.accelerator.num_processes))

    def init_folder(self, kind: str) -> str:
        """The folder of a model of some kind that the config's `init` names; "" if it names none.

        Raises `UserError` where it is not there, unless the run goes on from a checkpoint: it need
        then not be there any more.
        """
        init = self.config.init
        return str(find_model(init, kind)) if init and not self.checkpoint.exists() else init

    def start(self, load: Callable[[], None], init: str) -> None:
        """Take the weights of the folder `init`, unless the run goes on from a checkpoint.


        It need then not be there any more. `load` reads them. Raises `UserError` as that does.
        """
        weights = Path(init) / WEIGHTS
        if weights.is_file():
            self.fed["init"] = file_fingerprint(weights)
        if not self.checkpoint.exists():
            load()

    def _in_an_update(self) -> dict[str, str]:
        each = self.options.batch_size * self.options.accumulate
        return {"batch": str(each * self.accelerator.num_processes)}

    def _begin_log(self) -> None:
        if self.log_file.exists() and self.accelerator.is_main_process:
            before = self.log_file.with_suffix(".before.jsonl")
            self.log_file.replace(before)
            self.write(f"no checkpoint in {self.folder}: starts at 0; its log is now {before.name}")

    def _resume_log(self, changes: dict[str, list[Any]], begun_by: int) -> None:
        """Say from where the run goes on and what has changed, and have the log say so too."""
        step, now = self.trainer.step, self.accelerator.num_processes
        self._began = step
        self.write(f"resumed {self.folder} at update {step}")
        if begun_by != now and "batch" not in changes:
            self.write(
                f"begun by {begun_by} processes, now {now}: each update has the same images, but "
                "noise (dropout, Gumbel) is drawn in each process, so the weights are not those "
                "of an uninterrupted run bit for bit"
            )
        if self.accelerator.is_main_process:
            trim_log(self.log_file, step, self.extra.get(CHANGES, []))
        if changes:
            line = {"step": step, CHANGES: changes}
            self.extra = self.extra | {CHANGES: [*self.extra.get(CHANGES, []), line]}
            self._append(line)
            for key, (old, new) in changes.items():
                self.write(f"changed on purpose: {key}={old} before, {new} from here on")

    def updates(self) -> Iterator[int]:
        """Yield the numbers of the updates left to do, with a progress bar.

        Seeds torch's random numbers anew for each update, so that noise depends on the seed and
        the update alone. Ctrl-C (or SIGTERM) lets the current update finish, saves and ends.
        """
        started, before = time.monotonic(), self.extra.get("seconds", 0.0)
        self._signals.listen()
        options = self.options
        if self.accelerator.is_main_process:
            self._tracking = Tracking(self._tracker, self.folder, self.config, self.trainer.step)
        self._bar = tqdm(
            total=options.updates,
            initial=self.trainer.step,
            disable=not self.accelerator.is_main_process,
            dynamic_ncols=True,
            mininterval=1,
            bar_format=BAR,
            file=Forgiving(sys.stderr),
        )
        saved = self.trainer.step
        try:
            while self.trainer.step < options.updates:
                step = self.trainer.step
                processes.seed_update(options.seed, step, options.accumulate)
                self._current = step
                self._meter.begin()
                yield step
                self._bar.update()
                passed = time.monotonic() - started
                self.extra["seconds"] = before + passed
                late = 0 < options.minutes * 60 < passed
                # All processes then stop after the same update.
                interrupted, late = processes.any_process(
                    self.accelerator.device, self._signals.asked, late
                )
                self._signals.stopping = interrupted or late
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
            self._tracking.close()
            self._signals.restore()

    def order(self, length: int) -> Shuffled:
        """Return the order in which this process goes through `length` images from here on."""
        order = Shuffled(
            length,
            self.options.batch_size * self.options.accumulate,
            self.options.seed,
            start=self.trainer.step,
            rank=self.accelerator.process_index,
            world=self.accelerator.num_processes,
        )
        order.folder = self.folder
        return order

    def text_tokenizer(self, source: Source, vocab_size: int, init: str) -> TextTokenizer:
        """Return the run's text encoding: that of the folder `init`, or learned from captions.

        The run's folder keeps it: what a run that is resumed goes on with.
        """
        path = self.folder / TEXT
        with self.accelerator.main_process_first():
            # Without a checkpoint it may be another start's, or one that was cut off.
            fresh = not path.exists() or not self.checkpoint.exists()
            if fresh and self.accelerator.is_main_process:
                learned = TextTokenizer.load(Path(init) / TEXT) if init else None
                (learned or learn_text(source, vocab_size)).save(path)
        self.fed["text"] = file_fingerprint(path)
        return TextTokenizer.load(path)

    def due(self, every: int) -> bool:
        """Return whether the update just taken is one of each `every`, or the last."""
        step = self.trainer.step
        return step % every == 0 or step == self.options.updates

    def measures(self) -> bool:
        """Return whether this process measures the average now. All processes ask at once."""
        if not self.due(self.options.evaluate_every):
            return False
        self.trainer.gather_average()
        return self.accelerator.is_main_process

    def log(self, metrics: Mapping[str, float | Tensor], now: bool = False) -> None:
        """Collect an update's metrics; their means are written each run.log_every updates.

        Beside what the script has to say there are the trainer's figures and the machine's. A mean
        is over the updates that had the metric (some begin in the middle of a run), the parts of
        their batches, and the processes. Of an update that was skipped there are the trainer's
        figures alone. The first update is written too.

        With `now` they are written at once as they are (measurements on held-out images).
        """
        if now:
            self._write_line({name: float(value) for name, value in metrics.items()})
            return
        if not self.trainer.midway:
            self._meter.end()
            metrics = self.trainer.figures | ({} if self.trainer.skipped else dict(metrics))
        for name, value in metrics.items():
            value = value.detach() if isinstance(value, Tensor) else value
            self._sums[name] = self._sums.get(name, 0.0) + value
            self._counts[name] = self._counts.get(name, 0) + 1
        if self.trainer.midway:
            return
        due = self.due(self.options.log_every)
        first, self._silent = self._silent, False  # a sign of life at once
        if due or first or self.trainer.step == 1:
            means = {name: float(value) / self._counts[name] for name, value in self._sums.items()}
            means = processes.mean_figures(means, self.accelerator.device)
            left = self.options.updates - self.trainer.step
            speed = self._meter.figures(left, self.options.minutes, reset=due)
            self._write_line(means | speed, to_file=due or self.trainer.step == 1)
        if due:
            self._sums, self._counts = {}, {}

    def _write_line(self, figures: dict[str, float], to_file: bool = True) -> None:
        if not self.accelerator.is_main_process:
            return
        if to_file:
            self._append({"step": self.trainer.step, **figures})
            self._tracking.log(figures, self.trainer.step)
        first = not self._shown
        shown = ("loss", self._telling, "lr", "images_per_s")
        self._shown |= {name: f"{figures[name]:.4g}" for name in shown if name in figures}
        self._bar.set_postfix({n: self._shown[n] for n in shown if n in self._shown}, refresh=first)

    @property
    def trained(self) -> bool:
        """Whether this command has taken an update."""
        return self.trainer.step > self._began

    def show(self, name: str, sheet: Image.Image) -> None:
        """Write a sheet of images of this update into the folder of that name."""
        save_image(sheet, self.folder / name / f"{self.trainer.step:07d}.png")
        self._tracking.show(name, sheet, self.trainer.step)

    def conclude(self, figure: str, name: str = "model") -> None:
        """Say at the end what the run's folder holds, with the best figure measured on the way."""
        if self.trained and self.accelerator.is_main_process:
            write_summary(self, figure)
        if getattr(self.config, "keep", "best") == "last":
            figure = f"the last weights ({figure} on the way)"
        self.write(closing_line(self, self._began, self.folder / name, figure))

    def _append(self, line: dict[str, Any]) -> None:
        if not self.accelerator.is_main_process:
            return
        try:
            with self.log_file.open("a", encoding="utf-8") as file:
                file.write(json.dumps(line) + "\n")
        except OSError as error:
            raise unwritable(self.log_file, error, "run.out") from None

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
            with contextlib.suppress(OSError):  # a closed terminal, or a full disk below a log
                tqdm.write(line)

    def save(self) -> None:
        """Write the checkpoint: the averaged weights, the config, and all that resuming needs.

        All processes call it; the first one writes.
        """
        average, trainer = self.trainer.average_weights(), self.trainer.state_dict()  # of all
        if not self.accelerator.is_main_process:
            return

        def contents(folder: Path) -> None:
            write_model(folder, average, to_yaml(self.config), metadata=self.fed)
            state = {"trainer": trainer, "extra": self.extra, "fed": self.fed}
            state["processes"] = self.accelerator.num_processes
            if self.beside is not None:
                state["beside"] = self.beside.state_dict()
            torch.save(state, folder / TRAINING)
            seal(folder)

        write_folder(self.checkpoint, contents)
        keep_checkpoint(self.checkpoint, self.trainer.step, self.options.keep_last)
