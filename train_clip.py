"""The reranker: train a dual encoder of pictures and captions (CLIP, arXiv 2103.00020)."""

from dataclasses import dataclass, field
from pathlib import Path

import torch

from dalle.examples import TextConfig, run_text
from dual_encoder.checkpoint import Ranker, save_dual_encoder
from dual_encoder.examples import HeldOut, fresh_pairs, held_out_pairs
from dual_encoder.loss import LossConfig, contrastive_loss
from dual_encoder.metrics import measure
from dual_encoder.model import DualEncoder, DualEncoderConfig
from dual_encoder.text import SPECIAL, check_vocabulary
from training.checkpoint import load_into, read_weights
from training.config import load_config
from training.data import DataConfig, Pictures, captioned, open_sources
from training.errors import UserError, command
from training.grids import grid, save_picture
from training.run import Run, RunConfig
from training.trainer import OptimiserConfig, Trainer

USAGE = """
usage: python train_clip.py [--config configs/clip/NAME.yaml] [key=value ...]

Trains a dual encoder on captioned pictures and writes run.out/model, the model at its best
held-out recall. The same command resumes an interrupted run.
"""


@dataclass
class TrainDualEncoder:
    """All of a dual encoder's training."""

    model: DualEncoderConfig = field(default_factory=DualEncoderConfig)
    """The two towers."""
    text: TextConfig = field(default_factory=TextConfig)
    """The text encoding."""
    loss: LossConfig = field(default_factory=LossConfig)
    """The contrastive loss."""
    data: DataConfig = field(default_factory=DataConfig)
    """The captioned pictures."""
    optimiser: OptimiserConfig = field(default_factory=OptimiserConfig)
    """The optimiser."""
    run: RunConfig = field(default_factory=RunConfig)
    """Length and output."""
    chunk_pictures: int = 0
    """Pairs encoded at a time, where a batch's activations do not fit (0: all); some 4/3 of the
    time."""
    init: str = ""
    """Folder of a dual encoder of the same size to start from, if any: fine-tuning."""
    held_out_pictures: int = 1024
    """How many held-out pictures are measured (0: all)."""

    def validate(self) -> None:
        """Raise `UserError` on impossible values."""
        if self.chunk_pictures < 0:
            raise UserError("chunk_pictures must be at least 0")


@command
def main() -> None:
    config = load_config(TrainDualEncoder, USAGE)
    run = Run(config)
    device = run.accelerator.device
    train, held_out = (captioned(source) for source in open_sources(config.data))
    text = run_text(run, train, config.model.vocab_size - SPECIAL, config.init)
    check_vocabulary(text, config.model)

    encoder = DualEncoder(config.model)
    if config.init:
        load_into(encoder, read_weights(Path(config.init)), config.init)
    groups = encoder.parameter_groups(config.optimiser.weight_decay)
    trainer = Trainer(encoder, config.optimiser, run.accelerator, groups, encoder.hidden_weights())
    run.resume(trainer)
    if config.run.compile:
        encoder.compile()

    size = config.model.image_size
    pictures = Pictures(train, size, config.data.augment)
    order = run.order(len(pictures))
    examples = fresh_pairs(
        *(pictures, order, config.data.workers, text, config.model, config.text.bpe_dropout),
        config.loss.confusable,
    )
    measured = held_out_pairs(held_out, size, config.held_out_pictures)
    ranker = Ranker(trainer.average, text)
    parameters = sum(p.numel() for p in encoder.parameters())
    run.write(
        f"{parameters:,} parameters, {len(train)} training and {len(measured.captions)} held-out "
        "pictures"
    )

    for _ in run.updates():
        images, words, concepts, wrong = (tensor.to(device) for tensor in next(examples))
        seen, read, scale = trainer.model(images, torch.cat([words, wrong]), config.chunk_pictures)
        right, nearly = read[: len(words)], read[len(words) :]
        # A caption that nothing could be exchanged in is no negative of its own picture.
        negatives = (nearly, (words != wrong).any(dim=1)) if len(wrong) else None
        loss = contrastive_loss(seen, right, scale, concepts, config.loss, wrong=negatives)
        lr, value = trainer.lr, trainer.update(loss)
        encoder.limit_scale()
        run.log({"lr": lr, "loss": value, "scale": encoder.scale()})
        if run.due(config.run.evaluate_every) and run.accelerator.is_main_process:
            figures = measure(ranker, measured, config.loss)
            run.log(figures, now=True)
            if figures["mean_recall"] > run.extra.get("best_recall", -1.0):
                run.extra["best_recall"] = figures["mean_recall"]
                save_dual_encoder(run.folder / "model", ranker)
            preview(run, ranker, measured)

    best = run.extra.get("best_recall", float("nan"))
    run.write(f"wrote {run.folder / 'model'}: mean held-out recall at 1, 5 and 10 {best:.4f}")


def preview(run: Run, ranker: Ranker, held_out: HeldOut, best: int = 7) -> None:
    """Write a picture: in each row a held-out pair, then the pictures that its caption finds."""
    queries = range(0, len(held_out.captions), max(1, len(held_out.captions) // 8))[:8]
    features = ranker.text_features([held_out.captions[query] for query in queries])
    scores = features @ ranker.image_features(held_out.pictures).T
    pictures, labels = [], []
    for query, row in zip(queries, scores, strict=True):
        found = row.topk(min(best, len(row)))
        shown = [query, *found.indices.tolist()]
        pictures += [held_out.pictures[index] for index in shown]
        labels.append(held_out.captions[query][:20])
        labels += [f"{value:.2f}" for value in found.values.tolist()]
    sheet = grid(pictures, len(pictures) // len(queries), labels, scale=2)
    save_picture(sheet, run.folder / "samples" / f"{run.trainer.step:07d}.png")


if __name__ == "__main__":
    raise SystemExit(main())
