"""Stage two: train the transformer over text and image tokens (section 2.2, appendix B)."""

import dalle_base.common.interrupts  # noqa: F401  # isort: skip  # first of all

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

from dalle.config import CodesConfig, SamplingDefaults, TransformerConfig
from dalle_base.common.bounds import From0
from dalle_base.common.errors import UserError, command
from dalle_base.common.free import Free, Place
from dalle_base.common.planning import USAGE as PLANNING
from dalle_base.common.planning import take_plan
from dalle_base.common.schema import overlay_all
from dalle_base.data.config import DataConfig, TextConfig
from dalle_base.data.sources import SOURCES, resolve_data
from dalle_base.training.changes import load_run_config
from dalle_base.training.config import OptimiserConfig, RunConfig, check_keep
from dalle_base.training.layers import complete_layers, only, stored, without, written

if TYPE_CHECKING:
    from torch import Tensor

    from dalle.text_to_image import TextToImage
    from dalle.transformer import Transformer
    from dalle_base.data.sources.base import Source
    from dalle_base.training.run import Run
    from dvae.tokenizer import ImageTokenizer

USAGE = """
usage: python train_dalle.py [--config configs/dalle/NAME.yaml] [key=value ...]
       python train_dalle.py --config configs/dalle/folder.yaml tokenizer=FOLDER data.path=my_images

Trains the transformer on a tokenizer's codes and writes run.out/model, the model at its best
held-out loss: a folder that sample.py takes as --model. The same command resumes an interrupted
run.
"""
SMALLER = "lower run.batch_size, model.depth, model.d_model or the size of the grid"
GRID = ("rows", "columns", "image_vocab")
"""Sizes of the model that are the tokenizer's, unless something else is written (and not 0)."""
SHAPE = (
    *("text_vocab", "text_length", "depth", "heads", "head_width", "d_model", "layers"),
    *("pattern_options", "norm", "qk_norm", "activation", "positions", "padding"),
)
"""What a model that starts from another one has in common with it."""


@dataclass
class TrainDALLE:
    """All of stage two."""

    RENAMED: ClassVar = {"held_out_pictures": "held_out_images"}

    tokenizer: Annotated[str, Place("tokenizer")] = "runs/dvae/tokenizer"
    """Folder of the image tokenizer."""
    model: TransformerConfig = field(default_factory=TransformerConfig)
    """The transformer."""
    text: TextConfig = field(default_factory=TextConfig)
    """The text encoding."""
    codes: CodesConfig = field(default_factory=CodesConfig)
    """The image codes."""
    data: Annotated[DataConfig, Place("data")] = field(
        default_factory=SOURCES["folder"], metadata={"resolve": resolve_data}
    )
    """The captioned images."""
    optimiser: OptimiserConfig = field(default_factory=OptimiserConfig)
    """The optimiser."""
    run: RunConfig = field(default_factory=RunConfig)
    """Length and output."""
    init: Annotated[str, Place("init")] = ""
    """Folder of a model of the same size to start from, if any: fine-tuning."""
    codebook_init: bool = False
    """Start the embeddings of codes from the tokenizer's codebook, not at random."""
    keep: Free[str] = "best"
    """Which model the run's folder holds: best (by the image loss of held-out images) or last."""
    held_out_images: Free[From0] = 1024
    """How many held-out images are measured (0: all)."""
    sampling: Free[SamplingDefaults] = field(default_factory=SamplingDefaults)
    """How previews are sampled; the model's folder keeps it as its own way."""
    previews: Free[list[str]] = field(default_factory=list)
    """Captions sampled at each evaluation; where empty, the first held-out captions."""
    size: Free[str] = ""
    """Sizes and length to begin with: small, base or large (configs/sizes.yaml); what is written
    elsewhere counts more; empty: the paper's."""
    from_tokenizer: list[str] = field(default_factory=lambda: list(GRID))
    """Sizes of the model that are taken from the image tokenizer. Found by itself: of these, those
    that are written nowhere, or as 0."""

    @classmethod
    def prepare(cls, layers: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
        """Return config layers on those of `size` and of the model that `init` names."""
        init, found = written(layers, "init"), stored(layers)
        start: dict[str, Any] = {"codebook_init": False} if init else {}
        if found:
            start |= {"model": only(found.get("model"), SHAPE), "tokenizer": f"{init}/tokenizer"}
        taken = [key for key in GRID if written(layers, f"model.{key}") in (None, 0, "0")]
        complete = complete_layers(cls, "dalle", without(layers, "model", taken), start)
        own: dict[str, Any] = {"from_tokenizer": taken}
        return complete if "from_tokenizer" in overlay_all(layers) else [*complete, own]

    def validate(self) -> None:
        """Raise `UserError` on an unknown choice, or on two that exclude each other."""
        check_keep(self.keep)
        for name in self.from_tokenizer:
            if name not in GRID:
                raise UserError(f"from_tokenizer names {name!r}; it may name {', '.join(GRID)}")
        if self.codebook_init and self.init:
            raise UserError("codebook_init and init both say where embeddings start: leave one out")


@command
def main() -> None:
    devices, arguments = take_plan(sys.argv[1:])
    config = load_run_config(TrainDALLE, USAGE + PLANNING, arguments)
    if devices:
        from dalle.plan import transformer_needs
        from dalle_base.training.plan import table
        from dvae.checkpoint import load_tokenizer

        if config.from_tokenizer and Path(config.tokenizer).is_dir():  # else as the config has it
            take_grid(config, load_tokenizer(Path(config.tokenizer))[0])
        needs = transformer_needs(config.model, config.optimiser, config.run)
        print(table(needs, config.run, devices, shards=True))
        return
    from dalle_base.common.device import enough_memory
    from dalle_base.training.room import check_room
    from dalle_base.training.run import Run

    least = replace(config.model, **dict.fromkeys(config.from_tokenizer, 1)).least_size()
    check_room(least, config.run.batch_size, SMALLER)
    with enough_memory(SMALLER, **config.run.taken()), Run(config, shards=True) as run:
        train(config, run)


def train(config: TrainDALLE, run: "Run", sources: "tuple[Source, Source] | None" = None) -> None:
    """Train on one source, measure on the other (the config's, by default), keep a model."""
    from dalle.checkpoint import save_text_to_image
    from dalle.examples import Captions, held_out_examples, training_examples
    from dalle.loss import text_tokens_of
    from dalle.text_to_image import TextToImage
    from dalle_base.common.model_folders import TEXT_TO_IMAGE
    from dalle_base.data.batches import ImageDataset
    from dalle_base.data.fingerprint import data_fingerprint
    from dalle_base.data.sources import open_sources
    from dalle_base.data.sources.captioned import captioned_pair
    from dalle_base.training.beginning import begin_with_captions
    from dalle_base.training.trainer import Trainer
    from dvae.checkpoint import load_tokenizer, tokenizer_fingerprint

    device = run.accelerator.device
    tokenizer, saved_tokenizer = load_tokenizer(Path(config.tokenizer))
    take_grid(config, tokenizer)
    tokenizer.to(device)
    sources = sources or open_sources(config.data)
    train, held_out = captioned_pair(*sources)
    text_vocab, length = config.model.text_vocab, config.model.text_length
    text_tokenizer = begin_with_captions(run, train, text_vocab, TEXT_TO_IMAGE)

    run.fed |= {"data": data_fingerprint(train), "tokenizer": tokenizer_fingerprint(tokenizer)}
    transformer = new_transformer(config, tokenizer, run)
    accumulate = config.run.accumulate
    trainer = Trainer(
        transformer, config.optimiser, run.accelerator, accumulate=accumulate, sharded=run.sharded
    )
    run.resume(trainer)
    if config.run.compile:
        transformer.compile()

    captions = Captions(train, text_tokenizer, length, config.text)
    data = config.data
    images = ImageDataset(train, tokenizer.image_size, data.augment, data.max_skipped)
    examples = training_examples(run, captions, tokenizer, images, config.codes, data.workers)
    measured = held_out_examples(
        held_out, text_tokenizer, length, tokenizer, config.held_out_images
    )
    tokens = config.model.stream.length
    run.introduce(images.described, len(measured[0]), "held_out_image_loss", tokens)

    for _ in run.updates():
        tokens, codes = (tensor.to(device) for tensor in next(examples))
        tokens = transformer.drop_text(tokens)
        text_tokens = text_tokens_of(tokens, accumulate)
        for part in trainer.micro_batches(tokens, codes):
            losses = trainer.model(*part, text_tokens)
            lr, loss = trainer.lr, trainer.update(losses.total)
            run.log({"lr": lr, "loss": loss, "text_loss": losses.text, "image_loss": losses.image})
        if run.measures():
            parts = trainer.average, text_tokenizer, tokenizer
            model = TextToImage(*parts, sampling=config.sampling)
            if measure(run, model, measured) or config.keep == "last":
                save_text_to_image(run.folder / "model", model, saved_tokenizer)
            preview(config, run, held_out, model)

    run.conclude(f"best held-out image loss {run.best('image_loss'):.4f} nats a token")


def measure(run: "Run", model: "TextToImage", measured: "tuple[Tensor, Tensor]") -> bool:
    """Log the losses on held-out token ids [n, T] and codes [n, RC]; return whether it is best."""
    from dalle.metrics import held_out_losses

    figures = held_out_losses(model.transformer, *measured)
    run.log(figures, now=True)
    return run.is_best("image_loss", figures["held_out_image_loss"], lower=True)


def take_grid(config: TrainDALLE, tokenizer: "ImageTokenizer") -> None:
    """Take over the tokenizer's grid and number of codes; `UserError` where others are written."""
    from dalle.checkpoint import check_fit

    sizes = {
        "rows": tokenizer.rows,
        "columns": tokenizer.columns,
        "image_vocab": tokenizer.vocab_size,
    }
    for name in config.from_tokenizer:
        setattr(config.model, name, sizes[name])
    config.from_tokenizer = []  # they are written now
    check_fit(config.model, tokenizer, config.tokenizer)


def new_transformer(config: TrainDALLE, tokenizer: "ImageTokenizer", run: "Run") -> "Transformer":
    """Return the transformer that a run starts from. Raises `UserError`: another size."""
    from dalle.initialise import start_from_codebook
    from dalle.transformer import Transformer
    from dalle_base.common.model_folders import TEXT_TO_IMAGE

    transformer = Transformer(config.model)
    if init := run.init_folder(TEXT_TO_IMAGE):
        run.start(lambda: begin_with(transformer, Path(init), config, run), init)
    if config.codebook_init:
        start_from_codebook(transformer.image_embedding, tokenizer.codebook())
    return transformer


def begin_with(transformer: "Transformer", init: Path, config: TrainDALLE, run: "Run") -> None:
    """Start from a folder's weights; warn where they have learned another tokenizer's codes."""
    from dalle.checkpoint import tokenizer_of
    from dalle_base.common.checkpoint import start_from

    start_from(transformer, init)
    theirs, ours = tokenizer_of(init), run.fed["tokenizer"]
    if theirs and theirs != ours:
        run.write(
            f"warning: init={config.init} has learned the codes of another image tokenizer "
            f"(fingerprint {theirs}) than tokenizer={config.tokenizer} ({ours}): each code has "
            "another meaning now; name the tokenizer that it was trained with, or expect to train "
            "as from the start"
        )


def preview(config: TrainDALLE, run: "Run", held_out: "Source", model: "TextToImage") -> None:
    """Write a grid of what the model samples for a few captions, two candidates each."""
    from dalle_base.common.images import grid

    few = range(min(8, len(held_out)))
    captions = config.previews or [held_out.record(i).caption or "" for i in few]
    samples = model.generate(captions, candidates=2, seed=config.run.seed)
    labels = [caption[:18] for caption in captions for _ in range(2)]
    sheet = grid(samples.images, 8, labels, scale=2)
    run.show("samples", sheet)


if __name__ == "__main__":
    raise SystemExit(main())
