"""Stage two: train the transformer over text and image tokens (paper, section 2.2, appendix B)."""

from dataclasses import dataclass, field
from pathlib import Path

from dalle.checkpoint import TextToImage, check_fit, save_text_to_image
from dalle.examples import (
    Captions,
    CodesConfig,
    TextConfig,
    cached_examples,
    fresh_examples,
    held_out_examples,
    run_text,
)
from dalle.generate import generate
from dalle.metrics import held_out_losses
from dalle.transformer import Transformer, TransformerConfig
from dvae.checkpoint import load_tokenizer
from training.checkpoint import load_into, read_weights
from training.config import load_config
from training.data import DataConfig, Pictures, Source, captioned, open_sources
from training.errors import command
from training.grids import grid, save_picture
from training.run import Run, RunConfig
from training.trainer import OptimiserConfig, Trainer

USAGE = """
usage: python train_dalle.py [--config configs/dalle/NAME.yaml] [key=value ...]

Trains the transformer on a tokenizer's codes and writes run.out/model, the model at its best
held-out loss: a folder that sample.py takes as --model. The same command resumes an interrupted
run.
"""


@dataclass
class TrainDALLE:
    """All of stage two."""

    tokenizer: str = "runs/dvae/tokenizer"
    """Folder of the image tokenizer."""
    model: TransformerConfig = field(default_factory=TransformerConfig)
    """The transformer."""
    text: TextConfig = field(default_factory=TextConfig)
    """The text encoding."""
    codes: CodesConfig = field(default_factory=CodesConfig)
    """The image codes."""
    data: DataConfig = field(default_factory=DataConfig)
    """The captioned pictures."""
    optimiser: OptimiserConfig = field(default_factory=OptimiserConfig)
    """The optimiser."""
    run: RunConfig = field(default_factory=RunConfig)
    """Length and output."""
    init: str = ""
    """Folder of a model of the same size to start from, if any: fine-tuning."""
    held_out_pictures: int = 1024
    """How many held-out pictures are measured (0: all)."""
    previews: list[str] = field(default_factory=list)
    """Captions drawn at each evaluation; where empty, the first held-out captions."""


@command
def main() -> None:
    config = load_config(TrainDALLE, USAGE)
    run = Run(config)
    device = run.accelerator.device
    tokenizer, saved_tokenizer = load_tokenizer(Path(config.tokenizer))
    check_fit(config.model, tokenizer, config.tokenizer)
    tokenizer.to(device)
    train, held_out = (captioned(source) for source in open_sources(config.data))
    text = run_text(run, train, config.model.text_vocab, config.init)

    transformer = Transformer(config.model)
    if config.init:
        load_into(transformer, read_weights(Path(config.init)), config.init)
    groups = transformer.parameter_groups(config.optimiser.weight_decay)
    trainer = Trainer(
        transformer, config.optimiser, run.accelerator, groups, transformer.hidden_weights()
    )
    run.resume(trainer)
    if config.run.compile:
        transformer.compile()

    length = config.model.text_length
    captions = Captions(train, text, length, config.text.bpe_dropout)
    pictures = Pictures(train, tokenizer.image_size, config.data.augment)
    order = run.order(len(pictures))
    if config.codes.mode == "cached":
        examples = cached_examples(
            captions, tokenizer, pictures, order, config.codes, config.data, run.folder
        )
    else:
        examples = fresh_examples(captions, tokenizer, pictures, order, config.data.workers)
    measured = held_out_examples(held_out, text, length, tokenizer, config.held_out_pictures)
    parameters = sum(p.numel() for p in transformer.parameters())
    run.write(
        f"{parameters:,} parameters, {len(train)} training and {len(measured[0])} held-out pictures"
    )

    for _ in run.updates():
        words, codes = (tensor.to(device) for tensor in next(examples))
        losses = trainer.model(words, codes)
        lr, loss = trainer.lr, trainer.update(losses.total)
        run.log({"lr": lr, "loss": loss, "text_loss": losses.text, "image_loss": losses.image})
        if run.due(config.run.evaluate_every) and run.accelerator.is_main_process:
            figures = held_out_losses(trainer.average, *measured)
            run.log(figures, now=True)
            model = TextToImage(trainer.average, text, tokenizer)
            if figures["held_out_image_loss"] < run.extra.get("best_image_loss", float("inf")):
                run.extra["best_image_loss"] = figures["held_out_image_loss"]
                save_text_to_image(run.folder / "model", model, saved_tokenizer)
            preview(config, run, held_out, model)

    best = run.extra.get("best_image_loss", float("nan"))
    run.write(f"wrote {run.folder / 'model'}: held-out image loss {best:.4f} nats a token")


def preview(config: TrainDALLE, run: Run, held_out: Source, model: TextToImage) -> None:
    """Write a picture of what the model draws for a few captions, two candidates each."""
    few = range(min(8, len(held_out)))
    captions = config.previews or [held_out.record(i).caption or "" for i in few]
    words = model.text.encode(captions, config.model.text_length)
    drawn = generate(model.transformer, words, candidates=2, seed=config.run.seed)
    labels = [caption[:18] for caption in captions for _ in range(2)]
    sheet = grid(model.pictures(drawn.codes), 8, labels, scale=2)
    save_picture(sheet, run.folder / "samples" / f"{run.trainer.step:07d}.png")


if __name__ == "__main__":
    raise SystemExit(main())
