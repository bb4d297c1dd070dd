"""The reranker: train a dual encoder of images and captions (CLIP, arXiv 2103.00020)."""

import dalle_base.common.interrupts  # noqa: F401  # isort: skip  # first of all

import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import repeat
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

from dalle_base.common.bounds import From0
from dalle_base.common.errors import UserError, command
from dalle_base.common.free import Free, Place
from dalle_base.common.planning import USAGE as PLANNING
from dalle_base.common.planning import take_plan
from dalle_base.data.config import DataConfig, TextConfig
from dalle_base.data.sources import SOURCES, resolve_data
from dalle_base.training.changes import load_run_config
from dalle_base.training.config import OptimiserConfig, RunConfig, check_keep
from dalle_base.training.layers import complete_layers, only, stored
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
       python train_clip.py --config configs/clip/folder.yaml data.path=my_images

Trains a dual encoder on captioned images and writes run.out/model, the model at its best
held-out recall (with loss.spoiled.path: spoiled accuracy). The same command resumes an interrupted
run.
"""
SMALLER = "set chunk_images, or lower run.batch_size or the sizes of the towers"

SHAPE = (
    *("embed_dim", "image_size", "patch_size", "vision", "vocab_size", "text_length", "text"),
    *("activation", "mean", "std"),
)
"""What a dual encoder that starts from another one has in common with it."""


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
    data: Annotated[DataConfig, Place("data")] = field(
        default_factory=SOURCES["folder"], metadata={"resolve": resolve_data}
    )
    """The captioned images."""
    optimiser: OptimiserConfig = field(default_factory=OptimiserConfig)
    """The optimiser."""
    run: RunConfig = field(default_factory=RunConfig)
    """Length and output."""
    chunk_images: Free[From0] = 0
    """Pairs encoded at a time, where a batch's activations do not fit (0: all); some 4/3 of the
    time."""
    init: Annotated[str, Place("init")] = ""
    """Folder of a dual encoder of the same size to start from, if any: fine-tuning."""
    keep: Free[str] = "best"
    """Which model the run's folder holds: best (by the recall of held-out pairs; with
    loss.spoiled.path, by spoiled accuracy) or last."""
    held_out_images: Free[From0] = 1024
    """How many held-out images are measured (0: all)."""
    size: Free[str] = ""
    """Sizes and length to begin with: small, base or large (configs/sizes.yaml); what is written
    elsewhere counts more; empty: the paper's."""

    @classmethod
    def prepare(cls, layers: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
        """Return config layers on those of `size` and of the dual encoder that `init` names."""
        start = {"model": only(stored(layers).get("dual_encoder"), SHAPE)}
        return complete_layers(cls, "clip", layers, start)

    def validate(self) -> None:
        """Raise `UserError` on impossible values."""
        check_keep(self.keep)
        if self.run.accumulate > 1:
            raise UserError(
                "run.accumulate is 1 here: the contrastive loss compares all pairs of a batch, so "
                "its parts cannot be added up; chunk_images encodes a large batch in parts, exactly"
            )


@command
def main() -> None:
    devices, arguments = take_plan(sys.argv[1:])
    config = load_run_config(TrainDualEncoder, USAGE + PLANNING, arguments)
    if devices:
        from dalle_base.training.plan import table
        from dual_encoder.plan import dual_encoder_needs

        needs = dual_encoder_needs(
            config.model, config.loss, config.chunk_images, config.optimiser, config.run
        )
        print(table(needs, config.run, devices))
        return
    from dalle_base.common.device import enough_memory
    from dalle_base.training.room import check_room
    from dalle_base.training.run import Run

    together = min(config.chunk_images or config.run.batch_size, config.run.batch_size)
    check_room(config.model.least_size(), together, SMALLER)
    with enough_memory(SMALLER, **config.run.taken()), Run(config) as run:
        train(config, run)


def train(config: TrainDualEncoder, run: "Run") -> None:
    """Train, measure, and keep the best model in the run's folder."""
    from dalle_base.common.checkpoint import start_from
    from dalle_base.common.fingerprints import file_fingerprint
    from dalle_base.common.model_folders import DUAL_ENCODER
    from dalle_base.data.batches import ImageDataset
    from dalle_base.data.fingerprint import data_fingerprint
    from dalle_base.data.sources import open_sources
    from dalle_base.data.sources.captioned import captioned_pair
    from dalle_base.training.beginning import begin_with_captions
    from dalle_base.training.trainer import Trainer
    from dual_encoder.checkpoint import save_dual_encoder
    from dual_encoder.examples import PairMaker, fresh_pairs, held_out_pairs
    from dual_encoder.model import DualEncoder
    from dual_encoder.ranker import Ranker
    from dual_encoder.text import SPECIAL, check_vocabulary

    to_train, to_measure = spoiled_groups(config)
    train, held_out = captioned_pair(*open_sources(config.data))
    text_vocab = config.model.vocab_size - SPECIAL
    text_tokenizer = begin_with_captions(run, train, text_vocab, DUAL_ENCODER, SPECIAL)
    check_vocabulary(text_tokenizer, config.model)

    encoder = DualEncoder(config.model)
    run.fed["data"] = data_fingerprint(train)
    if config.loss.spoiled.path:
        run.fed["spoiled"] = file_fingerprint(Path(config.loss.spoiled.path))
    if init := run.init_folder(DUAL_ENCODER):
        run.start(lambda: start_from(encoder, Path(init)), init)
    trainer = Trainer(encoder, config.optimiser, run.accelerator)
    run.resume(trainer)
    if config.run.compile:
        encoder.compile()

    data = config.data
    images = ImageDataset(train, config.model.image_size, data.augment, data.max_skipped)
    pairs = PairMaker(text_tokenizer, config.model, config.text, config.loss.confusable)
    examples = fresh_pairs(images, run.order(images.count), config.data.workers, pairs)
    spoiled = spoiled_batches(config, run, to_train, pairs)
    measured = held_out_pairs(held_out, config.model.image_size, config.held_out_images)
    ranker = Ranker(trainer.average, text_tokenizer)
    telling = "mean_recall" if kept_by(config)[0] == "recall" else kept_by(config)[0]
    run.introduce(images.described, len(measured.captions), telling)

    for _ in run.updates():
        batch, groups = next(examples), next(spoiled)
        loss = batch_loss(config, trainer.model, batch, run.accelerator.device, groups)
        lr, value = trainer.lr, trainer.update(loss)
        encoder.limit_scale()
        run.log({"lr": lr, "loss": value, "scale": encoder.scale()})
        if run.measures():
            best = is_best(config, run, ranker, measured, to_measure)
            if best or config.keep == "last":
                save_dual_encoder(run.folder / "model", ranker)
            preview(run, ranker, measured)

    kept, words = kept_by(config)
    run.conclude(f"best {words} {run.best(kept):.4f}")


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
    """Return the figure by which the best model is told, and the words for it."""
    if config.loss.spoiled.path:
        return "spoiled_accuracy", "share of held-out captions whose right image comes first"
    return "recall", "mean held-out recall at 1, 5 and 10"


def is_best(
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
    from dalle_base.common.images import grid

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
    run.show("samples", sheet)


if __name__ == "__main__":
    raise SystemExit(main())
