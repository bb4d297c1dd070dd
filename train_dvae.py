"""Stage one: train an image tokenizer (paper, section 2.1 and appendix A)."""

from dataclasses import dataclass, field
from pathlib import Path

from dvae.checkpoint import TOKENIZERS, SavedTokenizer, save_tokenizer
from dvae.metrics import measure
from training.checkpoint import load_into, read_weights
from training.config import load_config
from training.data import DataConfig, Pictures, all_pictures, batches, open_sources
from training.errors import command
from training.grids import grid, save_picture
from training.pictures import to_picture, to_tensor
from training.run import Run, RunConfig
from training.trainer import OptimiserConfig, Trainer

USAGE = """
usage: python train_dvae.py [--config configs/dvae/NAME.yaml] [key=value ...]

Trains a tokenizer and writes run.out/tokenizer, a folder that train_dalle.py takes as
tokenizer. The same command resumes an interrupted run.
"""


@dataclass
class TrainDVAE(SavedTokenizer):
    """All of stage one: a tokenizer, and how it is trained."""

    data: DataConfig = field(default_factory=DataConfig)
    """Its pictures; captions are not needed here."""
    optimiser: OptimiserConfig = field(default_factory=OptimiserConfig)
    """Its optimiser."""
    run: RunConfig = field(default_factory=RunConfig)
    """Length and output."""
    init: str = ""
    """Folder of a tokenizer of the same size to start from, if any: fine-tuning."""
    held_out_pictures: int = 512
    """How many held-out pictures are measured (0: all)."""


@command
def main() -> None:
    config = load_config(TrainDVAE, USAGE)
    run = Run(config)
    tokenizer = TOKENIZERS[config.tokenizer][1](config.model)
    train, held_out = open_sources(config.data)
    size = tokenizer.image_size
    pictures = Pictures(train, size, config.data.augment)
    held_out = all_pictures(Pictures(held_out, size, None), config.held_out_pictures)
    run.write(f"{len(train)} training pictures, {len(held_out)} held-out pictures measured")

    if config.init:
        load_into(tokenizer, read_weights(Path(config.init)), config.init)
    trainer = Trainer(
        tokenizer, config.optimiser, run.accelerator, hidden=tokenizer.hidden_weights()
    )
    run.resume(trainer)
    if config.run.compile:
        for network in tokenizer.children():
            network.compile()
    accelerator = run.accelerator
    stream = batches(pictures, run.order(len(pictures)), config.data.workers)

    for step in run.updates():
        images = to_tensor([example.pixels for example in next(stream)])
        report = trainer.model(images.to(accelerator.device), step)
        run.log({"lr": trainer.lr, "loss": trainer.update(report.total), **report.metrics})
        if run.due(config.run.evaluate_every) and accelerator.is_main_process:
            run.log(measure(trainer.average, held_out), now=True)
            few = held_out[:: max(1, len(held_out) // 16)][:16]
            shown = to_tensor(few).to(accelerator.device)
            rebuilt = trainer.average.reconstruct(shown)
            pairs = [to_picture(image) for image in [*shown, *rebuilt]]
            path = run.folder / "reconstructions" / f"{trainer.step:07d}.png"
            save_picture(grid(pairs, columns=len(shown)), path)

    if accelerator.is_main_process:
        saved = SavedTokenizer(config.tokenizer, config.model, config.precision)
        save_tokenizer(run.folder / "tokenizer", trainer.average, saved)
        run.write(f"wrote {run.folder / 'tokenizer'}")


if __name__ == "__main__":
    raise SystemExit(main())
