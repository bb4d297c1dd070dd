"""Stage one: train an image tokenizer (section 2.1, appendix A)."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from dalle_base.common.config import load_config
from dalle_base.common.errors import command
from dalle_base.data.config import DataConfig
from dalle_base.data.sources import SOURCES, resolve_data
from dalle_base.training.config import OptimiserConfig, RunConfig
from dvae.kinds import SavedTokenizer, tokenizer_class

if TYPE_CHECKING:
    import numpy as np

    from dalle_base.training.run import Run
    from dvae.image_losses import ImageLosses
    from dvae.tokenizer import ImageTokenizer

USAGE = """
usage: python train_dvae.py [--config configs/dvae/NAME.yaml] [key=value ...]

Trains a tokenizer and writes run.out/tokenizer, a folder that train_dalle.py takes as
tokenizer. The same command resumes an interrupted run.
"""


@dataclass
class TrainDVAE(SavedTokenizer):
    """All of stage one: a tokenizer, and how it is trained."""

    RENAMED: ClassVar = {"held_out_pictures": "held_out_images"}

    data: DataConfig = field(default_factory=SOURCES["folder"], metadata={"resolve": resolve_data})
    """Its images; captions are not needed here."""
    optimiser: OptimiserConfig = field(default_factory=OptimiserConfig)
    """Its optimiser."""
    run: RunConfig = field(default_factory=RunConfig)
    """Length and output."""
    init: str = ""
    """Folder of a tokenizer of the same size to start from, if any: fine-tuning."""
    held_out_images: int = 512
    """How many held-out images are measured (0: all)."""


@command
def main() -> None:
    config = load_config(TrainDVAE, USAGE)
    from dalle_base.training.run import Run
    from dvae.image_losses import ImageLosses

    losses = ImageLosses(config.model)  # what they lack is said before the run has a folder
    with Run(config) as run:
        train(config, run, losses)


def train(config: TrainDVAE, run: "Run", losses: "ImageLosses") -> None:
    """Train, measure, and write the averaged tokenizer into the run's folder."""
    from dalle_base.common.checkpoint import load_into, read_weights
    from dalle_base.common.images import to_tensor
    from dalle_base.data.batches import ImageDataset, all_images, batches
    from dalle_base.data.sources import open_sources
    from dalle_base.training.trainer import Trainer
    from dvae.checkpoint import save_tokenizer
    from dvae.metrics import measure

    tokenizer = tokenizer_class(config.tokenizer)(config.model)
    losses.attach(tokenizer, run)
    train, held_out = open_sources(config.data)
    size = tokenizer.image_size
    images = ImageDataset(train, size, config.data.augment)
    measured = all_images(ImageDataset(held_out, size, None), config.held_out_images)
    run.write(f"{len(train)} training images, {len(measured)} held-out images measured")

    if config.init:
        load_into(tokenizer, read_weights(Path(config.init)), config.init)
    trainer = Trainer(tokenizer, config.optimiser, run.accelerator)
    run.resume(trainer, losses)
    if config.run.compile:
        tokenizer.compile_networks()
    accelerator = run.accelerator
    stream = batches(images, run.order(len(images)), config.data.workers)

    for step in run.updates():
        pixels = to_tensor([example.pixels for example in next(stream)]).to(accelerator.device)
        report = losses.add(trainer.model(pixels, step), pixels, step)
        figures = {"lr": trainer.lr, "loss": trainer.update(report.total), **report.metrics}
        run.log(figures | losses.update(report, pixels, step))
        if run.due(config.run.evaluate_every) and accelerator.is_main_process:
            run.log(measure(trainer.average, measured), now=True)
            preview(run, trainer.average, measured)

    if accelerator.is_main_process:
        saved = SavedTokenizer(config.tokenizer, config.model, config.precision)
        save_tokenizer(run.folder / "tokenizer", trainer.average, saved)
        run.write(f"wrote {run.folder / 'tokenizer'}")


def preview(run: "Run", tokenizer: "ImageTokenizer", held_out: "list[np.ndarray]") -> None:
    """Write a grid: held-out images above, their reconstructions below."""
    from dalle_base.common.images import grid, save_image, to_image, to_tensor

    few = held_out[:: max(1, len(held_out) // 16)][:16]
    pixels = to_tensor(few).to(run.accelerator.device)
    pairs = [to_image(image) for image in [*pixels, *tokenizer.reconstruct(pixels)]]
    path = run.folder / "reconstructions" / f"{run.trainer.step:07d}.png"
    save_image(grid(pairs, columns=len(few)), path)


if __name__ == "__main__":
    raise SystemExit(main())
