"""The reranker: train a dual encoder of images and captions (CLIP, arXiv 2103.00020)."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from dalle_base.common.config import load_config
from dalle_base.common.errors import UserError, command
from dalle_base.data.config import DataConfig, TextConfig
from dalle_base.data.sources import SOURCES, resolve_data
from dalle_base.training.config import OptimiserConfig, RunConfig
from dual_encoder.config import DualEncoderConfig, LossConfig

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from dalle_base.training.run import Run
    from dual_encoder.examples import Batch, HeldOut
    from dual_encoder.ranker import Ranker

USAGE = """
usage: python train_clip.py [--config configs/clip/NAME.yaml] [key=value ...]

Trains a dual encoder on captioned images and writes run.out/model, the model at its best
held-out recall. The same command resumes an interrupted run.
"""


@dataclass
class TrainDualEncoder:
    """All of a dual encoder's training."""

    RENAMED: ClassVar = {
        "held_out_pictures": "held_out_images",
        "chunk_pictures": "chunk_images",
    }

    model: DualEncoderConfig = field(default_factory=DualEncoderConfig)
    """The two towers."""
    text: TextConfig = field(default_factory=TextConfig)
    """The text encoding."""
    loss: LossConfig = field(default_factory=LossConfig)
    """The contrastive loss."""
    data: DataConfig = field(default_factory=SOURCES["folder"], metadata={"resolve": resolve_data})
    """The captioned images."""
    optimiser: OptimiserConfig = field(default_factory=OptimiserConfig)
    """The optimiser."""
    run: RunConfig = field(default_factory=RunConfig)
    """Length and output."""
    chunk_images: int = 0
    """Pairs encoded at a time, where a batch's activations do not fit (0: all); some 4/3 of the
    time."""
    init: str = ""
    """Folder of a dual encoder of the same size to start from, if any: fine-tuning."""
    held_out_images: int = 1024
    """How many held-out images are measured (0: all)."""

    def validate(self) -> None:
        """Raise `UserError` on impossible values."""
        if self.chunk_images < 0:
            raise UserError("chunk_images must be at least 0")


@command
def main() -> None:
    config = load_config(TrainDualEncoder, USAGE)
    from dalle_base.training.run import Run

    with Run(config) as run:
        train(config, run)


def train(config: TrainDualEncoder, run: "Run") -> None:
    """Train, measure, and keep the best model in the run's folder."""
    from dalle_base.common.checkpoint import load_into, read_weights
    from dalle_base.data.batches import ImageDataset
    from dalle_base.data.sources import open_sources
    from dalle_base.data.sources.base import captioned
    from dalle_base.training.trainer import Trainer
    from dual_encoder.checkpoint import save_dual_encoder
    from dual_encoder.examples import PairMaker, fresh_pairs, held_out_pairs
    from dual_encoder.metrics import measure
    from dual_encoder.model import DualEncoder
    from dual_encoder.ranker import Ranker
    from dual_encoder.text import SPECIAL, check_vocabulary

    train, held_out = (captioned(source) for source in open_sources(config.data))
    text_tokenizer = run.text_tokenizer(train, config.model.vocab_size - SPECIAL, config.init)
    check_vocabulary(text_tokenizer, config.model)

    encoder = DualEncoder(config.model)
    if config.init:
        load_into(encoder, read_weights(Path(config.init)), config.init)
    trainer = Trainer(encoder, config.optimiser, run.accelerator)
    run.resume(trainer)
    if config.run.compile:
        encoder.compile()

    images = ImageDataset(train, config.model.image_size, config.data.augment)
    pairs = PairMaker(text_tokenizer, config.model, config.text, config.loss.confusable)
    examples = fresh_pairs(images, run.order(len(images)), config.data.workers, pairs)
    measured = held_out_pairs(held_out, config.model.image_size, config.held_out_images)
    ranker = Ranker(trainer.average, text_tokenizer)
    parameters = sum(p.numel() for p in encoder.parameters())
    run.write(
        f"{parameters:,} parameters, {len(train)} training and {len(measured.captions)} held-out "
        "images"
    )

    for _ in run.updates():
        loss = batch_loss(config, trainer.model, next(examples), run.accelerator.device)
        lr, value = trainer.lr, trainer.update(loss)
        encoder.limit_scale()
        run.log({"lr": lr, "loss": value, "scale": encoder.scale()})
        if run.due(config.run.evaluate_every) and run.accelerator.is_main_process:
            figures = measure(ranker, measured, config.loss)
            run.log(figures, now=True)
            if run.is_best("recall", figures["mean_recall"]):
                save_dual_encoder(run.folder / "model", ranker)
            preview(run, ranker, measured)

    best = run.best("recall")
    run.write(f"wrote {run.folder / 'model'}: mean held-out recall at 1, 5 and 10 {best:.4f}")


def batch_loss(
    config: TrainDualEncoder, model: "torch.nn.Module", batch: "Batch", device: "torch.device"
) -> "Tensor":
    """Return the loss of a batch; captions that are nearly right are further negatives."""
    import torch

    from dual_encoder.loss import contrastive_loss

    images, tokens, concepts, wrong = (tensor.to(device) for tensor in batch)
    seen, read, scale = model(images, torch.cat([tokens, wrong]), config.chunk_images)
    right, nearly = read[: len(tokens)], read[len(tokens) :]
    # A caption that nothing could be exchanged in is no negative of its own image.
    negatives = (nearly, (tokens != wrong).any(dim=1)) if len(wrong) else None
    return contrastive_loss(seen, right, scale, concepts, config.loss, wrong=negatives)


def preview(run: "Run", ranker: "Ranker", held_out: "HeldOut", best: int = 7) -> None:
    """Write a grid: in each row a held-out pair, then the images that its caption finds."""
    from dalle_base.common.images import grid, save_image

    queries = range(0, len(held_out.captions), max(1, len(held_out.captions) // 8))[:8]
    features = ranker.text_features([held_out.captions[query] for query in queries])
    scores = features @ ranker.image_features(held_out.images).T
    images, labels = [], []
    for query, row in zip(queries, scores, strict=True):
        found = row.topk(min(best, len(row)))
        shown = [query, *found.indices.tolist()]
        images += [held_out.images[index] for index in shown]
        labels.append(held_out.captions[query][:20])
        labels += [f"{value:.2f}" for value in found.values.tolist()]
    sheet = grid(images, len(images) // len(queries), labels, scale=2)
    save_image(sheet, run.folder / "samples" / f"{run.trainer.step:07d}.png")


if __name__ == "__main__":
    raise SystemExit(main())
