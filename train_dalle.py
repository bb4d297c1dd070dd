"""Stage two: train the transformer over text and image tokens (section 2.2, appendix B)."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from dalle.config import CodesConfig, SamplingDefaults, TransformerConfig
from dalle_base.common.config import load_config
from dalle_base.common.errors import UserError, command
from dalle_base.data.config import DataConfig, TextConfig
from dalle_base.data.sources import SOURCES, resolve_data
from dalle_base.training.config import OptimiserConfig, RunConfig

if TYPE_CHECKING:
    from dalle.text_to_image import TextToImage
    from dalle.transformer import Transformer
    from dalle_base.data.sources.base import Source
    from dalle_base.training.run import Run
    from dvae.tokenizer import ImageTokenizer

USAGE = """
usage: python train_dalle.py [--config configs/dalle/NAME.yaml] [key=value ...]

Trains the transformer on a tokenizer's codes and writes run.out/model, the model at its best
held-out loss: a folder that sample.py takes as --model. The same command resumes an interrupted
run.
"""
KEPT = ("best", "last")


@dataclass
class TrainDALLE:
    """All of stage two."""

    RENAMED: ClassVar = {"held_out_pictures": "held_out_images"}

    tokenizer: str = "runs/dvae/tokenizer"
    """Folder of the image tokenizer."""
    model: TransformerConfig = field(default_factory=TransformerConfig)
    """The transformer."""
    text: TextConfig = field(default_factory=TextConfig)
    """The text encoding."""
    codes: CodesConfig = field(default_factory=CodesConfig)
    """The image codes."""
    data: DataConfig = field(default_factory=SOURCES["folder"], metadata={"resolve": resolve_data})
    """The captioned images."""
    optimiser: OptimiserConfig = field(default_factory=OptimiserConfig)
    """The optimiser."""
    run: RunConfig = field(default_factory=RunConfig)
    """Length and output."""
    init: str = ""
    """Folder of a model of the same size to start from, if any: fine-tuning."""
    codebook_init: bool = False
    """Start the embeddings of codes from the tokenizer's codebook, not at random."""
    keep: str = "best"
    """Which model the run's folder holds: best (by the image loss of held-out images) or last."""
    held_out_images: int = 1024
    """How many held-out images are measured (0: all)."""
    sampling: SamplingDefaults = field(default_factory=SamplingDefaults)
    """How previews are sampled; the model's folder keeps it as its own way."""
    previews: list[str] = field(default_factory=list)
    """Captions sampled at each evaluation; where empty, the first held-out captions."""

    def validate(self) -> None:
        """Raise `UserError` on an unknown choice, or on two that exclude each other."""
        if self.keep not in KEPT:
            raise UserError(f"keep is {self.keep!r}; use one of {', '.join(KEPT)}")
        if self.codebook_init and self.init:
            raise UserError("codebook_init and init both say where embeddings start: leave one out")


@command
def main() -> None:
    config = load_config(TrainDALLE, USAGE)
    from dalle_base.training.run import Run

    with Run(config) as run:
        train(config, run)


def train(config: TrainDALLE, run: "Run", sources: "tuple[Source, Source] | None" = None) -> None:
    """Train on one source, measure on the other (the config's, by default), keep a model."""
    from dalle.checkpoint import check_fit, save_text_to_image
    from dalle.examples import Captions, held_out_examples, training_examples
    from dalle.metrics import held_out_losses
    from dalle.text_to_image import TextToImage
    from dalle_base.data.batches import ImageDataset
    from dalle_base.data.sources import open_sources
    from dalle_base.data.sources.base import captioned
    from dalle_base.training.trainer import Trainer
    from dvae.checkpoint import load_tokenizer

    device = run.accelerator.device
    tokenizer, saved_tokenizer = load_tokenizer(Path(config.tokenizer))
    check_fit(config.model, tokenizer, config.tokenizer)
    tokenizer.to(device)
    sources = sources or open_sources(config.data)
    train, held_out = (captioned(source) for source in sources)
    text_tokenizer = run.text_tokenizer(train, config.model.text_vocab, config.init)

    transformer = new_transformer(config, tokenizer)
    trainer = Trainer(transformer, config.optimiser, run.accelerator)
    run.resume(trainer)
    if config.run.compile:
        transformer.compile()

    length = config.model.text_length
    captions = Captions(train, text_tokenizer, length, config.text)
    images = ImageDataset(train, tokenizer.image_size, config.data.augment)
    examples = training_examples(run, captions, tokenizer, images, config.codes, config.data)
    measured = held_out_examples(
        held_out, text_tokenizer, length, tokenizer, config.held_out_images
    )
    parameters = sum(p.numel() for p in transformer.parameters())
    run.write(
        f"{parameters:,} parameters, {len(train)} training and {len(measured[0])} held-out images"
    )

    for _ in run.updates():
        tokens, codes = (tensor.to(device) for tensor in next(examples))
        losses = trainer.model(tokens, codes)
        lr, loss = trainer.lr, trainer.update(losses.total)
        run.log({"lr": lr, "loss": loss, "text_loss": losses.text, "image_loss": losses.image})
        if run.due(config.run.evaluate_every) and run.accelerator.is_main_process:
            figures = held_out_losses(trainer.average, *measured)
            run.log(figures, now=True)
            parts = trainer.average, text_tokenizer, tokenizer
            model = TextToImage(*parts, sampling=config.sampling)
            best = run.is_best("image_loss", figures["held_out_image_loss"], lower=True)
            if best or config.keep == "last":
                save_text_to_image(run.folder / "model", model, saved_tokenizer)
            preview(config, run, held_out, model)

    best = run.best("image_loss")
    run.write(f"wrote {run.folder / 'model'}: best held-out image loss {best:.4f} nats a token")


def new_transformer(config: TrainDALLE, tokenizer: "ImageTokenizer") -> "Transformer":
    """Return the transformer that a run starts from. Raises `UserError`: another size."""
    from dalle.initialise import start_from_codebook
    from dalle.transformer import Transformer
    from dalle_base.common.checkpoint import load_into, read_weights

    transformer = Transformer(config.model)
    if config.init:
        load_into(transformer, read_weights(Path(config.init)), config.init)
    if config.codebook_init:
        start_from_codebook(transformer.image_embedding, tokenizer.codebook())
    return transformer


def preview(config: TrainDALLE, run: "Run", held_out: "Source", model: "TextToImage") -> None:
    """Write a grid of what the model samples for a few captions, two candidates each."""
    from dalle_base.common.images import grid, save_image

    few = range(min(8, len(held_out)))
    captions = config.previews or [held_out.record(i).caption or "" for i in few]
    samples = model.generate(captions, candidates=2, seed=config.run.seed)
    labels = [caption[:18] for caption in captions for _ in range(2)]
    sheet = grid(samples.images, 8, labels, scale=2)
    save_image(sheet, run.folder / "samples" / f"{run.trainer.step:07d}.png")


if __name__ == "__main__":
    raise SystemExit(main())
