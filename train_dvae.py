"""Stage one: train an image tokenizer (section 2.1, appendix A)."""

import dalle_base.common.interrupts  # noqa: F401  # isort: skip  # first of all

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

from dalle_base.common.bounds import From0
from dalle_base.common.errors import command
from dalle_base.common.free import Free, Place
from dalle_base.common.planning import USAGE as PLANNING
from dalle_base.common.planning import take_plan
from dalle_base.data.config import DataConfig
from dalle_base.data.sources import SOURCES, resolve_data
from dalle_base.training.changes import load_run_config
from dalle_base.training.config import OptimiserConfig, RunConfig, check_keep
from dalle_base.training.layers import complete_layers, only, stored, written
from dvae.kinds import SavedTokenizer, config_class, tokenizer_class
from dvae.parts import check_additive

if TYPE_CHECKING:
    import numpy as np

    from dalle_base.training.run import Run
    from dvae.image_losses import ImageLosses
    from dvae.tokenizer import ImageTokenizer

USAGE = """
usage: python train_dvae.py [--config configs/dvae/NAME.yaml] [key=value ...]
       python train_dvae.py --config configs/dvae/folder.yaml data.path=my_images

Trains a tokenizer and writes run.out/tokenizer, a folder that train_dalle.py takes as
tokenizer. The same command resumes an interrupted run.
"""
SMALLER = "lower run.batch_size, model.image_size or the sizes of model.network"


SHAPE = ("image_size", "grid", "codebook_size", "network", "quantiser", "quantiser_options")
"""What a tokenizer that starts from another one has in common with it."""


@dataclass
class TrainDVAE(SavedTokenizer):
    """All of stage one: a tokenizer, and how it is trained."""

    RENAMED: ClassVar = {"held_out_pictures": "held_out_images"}

    data: Annotated[DataConfig, Place("data")] = field(
        default_factory=SOURCES["folder"], metadata={"resolve": resolve_data}
    )
    """Its images; captions are not needed here."""
    optimiser: OptimiserConfig = field(default_factory=OptimiserConfig)
    """Its optimiser."""
    run: RunConfig = field(default_factory=RunConfig)
    """Length and output."""
    init: Annotated[str, Place("init")] = ""
    """Folder of a tokenizer of the same size to start from, if any: fine-tuning."""
    keep: Free[str] = "last"
    """Which tokenizer the run's folder holds: last, or best (by the PSNR of held-out images)."""
    held_out_images: Free[From0] = 512
    """How many held-out images are measured (0: all)."""
    size: Free[str] = ""
    """Sizes and length to begin with: small, base or large (configs/sizes.yaml); what is written
    elsewhere counts more; empty: the paper's."""

    @classmethod
    def prepare(cls, layers: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
        """Return config layers on those of `size` and of the tokenizer that `init` names."""
        found = stored(layers)
        start = {**only(found, ("tokenizer",)), "model": only(found.get("model"), SHAPE)}
        kind = str(written([start, *layers], "tokenizer") or cls.tokenizer)
        config_class(kind)  # says so where there is no such kind
        kind = kind if kind == cls.tokenizer else f"tokenizer={kind}"
        return complete_layers(cls, kind, layers, start)

    def validate(self) -> None:
        """Raise `UserError` on an unknown choice, or losses that batches in parts would change."""
        super().validate()
        check_keep(self.keep)
        if self.run.accumulate > 1:
            check_additive(self.model)


@command
def main() -> None:
    devices, arguments = take_plan(sys.argv[1:])
    config = load_run_config(TrainDVAE, USAGE + PLANNING, arguments)
    if devices:
        from dalle_base.training.plan import table
        from dvae.plan import tokenizer_needs

        needs = tokenizer_needs(config, config.optimiser, config.run)
        print(table(needs, config.run, devices))
        return
    from dalle_base.common.device import enough_memory
    from dalle_base.training.room import check_room
    from dalle_base.training.run import Run
    from dvae.image_losses import ImageLosses

    if hasattr(config.model, "least_size"):
        check_room(config.model.least_size(), config.run.batch_size, SMALLER)
    losses = ImageLosses(config.model)  # what they lack is said before the run has a folder
    with enough_memory(SMALLER, **config.run.taken()), Run(config) as run:
        train(config, run, losses)


def train(config: TrainDVAE, run: "Run", losses: "ImageLosses") -> None:
    """Train, measure, and write the averaged tokenizer into the run's folder."""
    from dalle_base.common.checkpoint import start_from
    from dalle_base.common.images import to_tensor
    from dalle_base.common.model_folders import TOKENIZER
    from dalle_base.data.batches import ImageDataset, all_images, batches
    from dalle_base.data.fingerprint import data_fingerprint
    from dalle_base.data.sources import open_sources
    from dalle_base.training.shares import fit_run
    from dalle_base.training.trainer import Trainer
    from dvae.checkpoint import save_tokenizer
    from dvae.metrics import measure

    train, held_out = open_sources(config.data)
    fit_run(run, train)
    tokenizer = tokenizer_class(config.tokenizer)(config.model)
    losses.attach(tokenizer, run)
    size = tokenizer.image_size
    data = config.data
    images = ImageDataset(train, size, data.augment, data.max_skipped)
    measured = all_images(ImageDataset(held_out, size, None), config.held_out_images)

    run.fed["data"] = data_fingerprint(train)
    if config.init:
        init = run.init_folder(TOKENIZER)
        run.start(lambda: start_from(tokenizer, Path(init)), init)
    accumulate = config.run.accumulate
    trainer = Trainer(tokenizer, config.optimiser, run.accelerator, accumulate=accumulate)
    run.resume(trainer, losses)
    run.introduce(images.described, len(measured), telling="psnr")
    if config.run.compile:
        tokenizer.compile_networks()
    accelerator = run.accelerator
    saved = SavedTokenizer(config.tokenizer, config.model, config.precision)
    stream = batches(images, run.order(images.count), config.data.workers)

    for step in run.updates():
        batch = to_tensor([example.pixels for example in next(stream)])
        for (part,) in trainer.micro_batches(batch):
            pixels = part.to(accelerator.device)
            report = losses.add(trainer.model(pixels, step), pixels, step)
            figures = {"lr": trainer.lr, "loss": trainer.update(report.total), **report.metrics}
            run.log(figures | losses.update(report, pixels, step))
        if run.measures():
            figures = measure(trainer.average, measured)
            run.log(figures, now=True)
            if run.is_best("psnr", figures["psnr"]) and config.keep == "best":
                save_tokenizer(run.folder / "tokenizer", trainer.average, saved)
            preview(run, trainer.average, measured)

    if accelerator.is_main_process and config.keep == "last":
        folder = run.folder / "tokenizer"
        if run.trained or not folder.is_dir():
            save_tokenizer(folder, trainer.average, saved)
    run.conclude(f"best held-out PSNR {run.best('psnr'):.2f} dB", "tokenizer")


def preview(run: "Run", tokenizer: "ImageTokenizer", held_out: "list[np.ndarray]") -> None:
    """Write a grid: held-out images above, their reconstructions below."""
    from dalle_base.common.images import grid, to_image, to_tensor

    few = held_out[:: max(1, len(held_out) // 16)][:16]
    pixels = to_tensor(few).to(run.accelerator.device)
    pairs = [to_image(image) for image in [*pixels, *tokenizer.reconstruct(pixels)]]
    run.show("reconstructions", grid(pairs, columns=len(few)))


if __name__ == "__main__":
    raise SystemExit(main())
