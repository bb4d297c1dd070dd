"""What the trainings of prior and decoder have in common. Needs no torch before it trains."""

import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, TypeVar

from dalle_base.common.bounds import From0
from dalle_base.common.errors import UserError
from dalle_base.common.free import Free, Place
from dalle_base.common.planning import USAGE as PLANNING
from dalle_base.common.planning import take_plan
from dalle_base.data.config import DataConfig, TextConfig
from dalle_base.data.sources import SOURCES, resolve_data
from dalle_base.training.changes import load_run_config
from dalle_base.training.config import OptimiserConfig, RunConfig, check_keep
from dalle_base.training.layers import complete_layers, only, stored

if TYPE_CHECKING:
    from torch import nn

    from dalle_base.training.run import Run
    from dalle_base.training.trainer import Trainer

T = TypeVar("T", bound="TrainOverEncoder")
FIGURE = "held_out_loss"
"""By which the best model is told."""


@dataclass
class TrainOverEncoder:
    """A training over a frozen dual encoder."""

    KIND: ClassVar[str]
    """Of the model, as messages and presets of sizes name it."""
    SHAPE: ClassVar[tuple[str, ...]]
    """What a model that starts from another one has in common with it."""

    encoder: Annotated[str, Place("encoder")] = "models/emoji/reranker"
    """Folder of the frozen dual encoder."""
    text: TextConfig = field(default_factory=TextConfig)
    """How captions vary."""
    data: Annotated[DataConfig, Place("data")] = field(
        default_factory=SOURCES["folder"], metadata={"resolve": resolve_data}
    )
    """The captioned images."""
    optimiser: OptimiserConfig = field(default_factory=OptimiserConfig)
    """The optimiser."""
    run: RunConfig = field(default_factory=RunConfig)
    """Length and output."""
    init: Annotated[str, Place("init")] = ""
    """Folder of a model of the same kind and size to start from, if any: fine-tuning."""
    keep: Free[str] = "best"
    """Which model the run's folder holds: best (by the loss of held-out images) or last."""
    size: Free[str] = ""
    """Sizes and length to begin with: small, base or large (configs/sizes.yaml); what is written
    elsewhere counts more; empty: the paper's."""
    held_out_images: Free[From0] = 256
    """How many held-out images are measured (0: all)."""

    @classmethod
    def prepare(cls, layers: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
        """Return config layers on those of `size` and of the model that `init` names."""
        start = {"model": only(stored(layers).get(cls.KIND), cls.SHAPE)}
        return complete_layers(cls, cls.KIND, layers, start)

    def validate(self) -> None:
        """Raise `UserError` on impossible values."""
        check_keep(self.keep)
        if self.run.accumulate > 1:
            raise UserError("run.accumulate is 1 here: raise run.batch_size")


def run_script(
    schema: type[T], usage: str, smaller: str, train: Callable[[T, "Run"], None]
) -> None:
    """Do what a command line asks of a training: plan it, or train.

    Args:
        schema: of the config.
        usage: what --help says first.
        smaller: what to write where memory does not suffice.
        train: the training itself.
    """
    devices, arguments = take_plan(sys.argv[1:])
    config = load_run_config(schema, usage + PLANNING, arguments)
    if devices:
        from dalle_base.training.plan import table
        from unclip.plan import needs_of

        print(table(needs_of(config), config.run, devices))
        return
    from dalle_base.common.device import enough_memory
    from dalle_base.training.room import check_room
    from dalle_base.training.run import Run

    model: Any = config.model  # type: ignore[attr-defined]
    check_room(model.least_size(), config.run.batch_size, smaller)
    with enough_memory(smaller, **config.run.taken()), Run(config) as run:
        train(config, run)


def begin(config: TrainOverEncoder, run: "Run", model: "nn.Module") -> "Trainer[Any]":
    """Return a model's trainer, from `init` or where the run's checkpoint was."""
    from dalle_base.common.checkpoint import start_from
    from dalle_base.training.trainer import Trainer

    if init := run.init_folder(""):
        run.start(lambda: start_from(model, Path(init)), init)
    trainer = Trainer(model, config.optimiser, run.accelerator)
    run.resume(trainer)
    return trainer


def log_and_keep(
    config: TrainOverEncoder,
    run: "Run",
    figures: Mapping[str, float],
    save: Callable[[Path], None],
) -> None:
    """Log what was measured, and save the average where it is the one to keep."""
    run.log(figures, now=True)
    best = run.is_best(FIGURE, figures[FIGURE], lower=True)
    if best or config.keep == "last":
        save(run.folder / "model")
