"""The reranker: train a dual encoder of images and captions (CLIP, arXiv 2103.00020)."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import repeat
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
    from dual_encoder.examples import Batch, HeldOut, PairMaker
    from dual_encoder.ranker import Ranker
    from dual_encoder.spoiled import Group, SpoiledBatch

USAGE = """
usage: python train_clip.py [--config configs/clip/NAME.yaml] [key=value ...]

Trains a dual encoder on captioned images and writes run.out/model, the model at its best
held-out recall (with loss.spoiled.path: spoiled accuracy). The same command resumes an interrupted
run.
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
    from dual_encoder.model import DualEncoder
    from dual_encoder.ranker import Ranker
    from dual_encoder.text import SPECIAL, check_vocabulary

    to_train, to_measure = spoiled_groups(config)
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
    spoiled = spoiled_batches(config, run, to_train, pairs)
    measured = held_out_pairs(held_out, config.model.image_size, config.held_out_images)
    ranker = Ranker(trainer.average, text_tokenizer)
    parameters = sum(p.numel() for p in encoder.parameters())
    run.write(
        f"{parameters:,} parameters, {len(train)} training and {len(measured.captions)} held-out "
        "images"
    )

    for _ in run.updates():
        batch, groups = next(examples), next(spoiled)
        loss = batch_loss(config, trainer.model, batch, run.accelerator.device, groups)
        lr, value = trainer.lr, trainer.update(loss)
        encoder.limit_scale()
        run.log({"lr": lr, "loss": value, "scale": encoder.scale()})
        if run.due(config.run.evaluate_every) and run.accelerator.is_main_process:
            if keep_best(config, run, ranker, measured, to_measure):
                save_dual_encoder(run.folder / "model", ranker)
            preview(run, ranker, measured)

    kept, words = kept_by(config)
    run.write(f"wrote {run.folder / 'model'}: {words} {run.best(kept):.4f}")


def spoiled_groups(config: TrainDualEncoder) -> tuple[list["Group"], list["Group"]]:
    """Return the captions with right and wrong images to train and to measure on, if any."""
    if not config.loss.spoiled.path:
        return [], []
    from dual_encoder.spoiled import read_groups, split_groups

    return split_groups(read_groups(config.loss.spoiled.path), config.loss.spoiled.held_out_share)


def spoiled_batches(
    config: TrainDualEncoder, run: "Run", groups: list["Group"], pairs: "PairMaker"
) -> Iterator["SpoiledBatch | None"]:
    """Yield what each update has of these captions, without end; None where there are none."""
    if not groups:
        return repeat(None)
    from dual_encoder.spoiled import SpoiledMaker, fresh_groups

    run.write(f"{len(groups)} captions with right and wrong images")
    make = SpoiledMaker(groups, pairs, config.loss.spoiled)
    return fresh_groups(run.order(len(groups)), make)


def kept_by(config: TrainDualEncoder) -> tuple[str, str]:
    """Return the figure by which the best model is kept, and the words for it."""
    if config.loss.spoiled.path:
        return "spoiled_accuracy", "share of held-out captions whose right image comes first"
    return "recall", "mean held-out recall at 1, 5 and 10"


def keep_best(
    config: TrainDualEncoder,
    run: "Run",
    ranker: "Ranker",
    held_out: "HeldOut",
    groups: list["Group"],
) -> bool:
    """Measure and log; return whether the model is the best so far."""
    from dual_encoder.metrics import measure, spoiled_accuracy

    figures = measure(ranker, held_out, config.loss)
    kept, best = kept_by(config)[0], figures["mean_recall"]
    if groups:
        best = figures["spoiled_accuracy"] = spoiled_accuracy(ranker, groups)
    run.log(figures, now=True)
    return run.is_best(kept, best)


def batch_loss(
    config: TrainDualEncoder,
    model: "torch.nn.Module",
    batch: "Batch",
    device: "torch.device",
    spoiled: "SpoiledBatch | None" = None,
) -> "Tensor":
    """Return the loss of a batch; captions that are nearly right are further negatives.

    With `spoiled`, its captions' preference for their right images is added.
    """
    import torch

    from dual_encoder.loss import contrastive_loss, preference_loss

    images, tokens, concepts, wrong = (tensor.to(device) for tensor in batch)
    count, texts = len(images), [tokens, wrong]
    if spoiled is not None:
        samples, captions, members = (tensor.to(device) for tensor in spoiled)
        images, texts = torch.cat([images, samples]), [*texts, captions]
    # In one call: a wrapper for several processes takes one forward pass for each backward one.
    seen, read, scale = model(images, torch.cat(texts), config.chunk_images)
    right, nearly, asked = read.tensor_split([count, count + len(wrong)])
    # A caption that nothing could be exchanged in is no negative of its own image.
    negatives = (nearly, (tokens != wrong).any(dim=1)) if len(wrong) else None
    loss = contrastive_loss(seen[:count], right, scale, concepts, config.loss, wrong=negatives)
    if spoiled is not None:
        preference = preference_loss(seen[count:], asked, scale, members)
        loss = loss + config.loss.spoiled.weight * preference
    return loss


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
