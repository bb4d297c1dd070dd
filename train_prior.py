"""DALL-E 2's prior: train diffusion over a dual encoder's embeddings (unCLIP, section 2.2)."""

import dalle_base.common.interrupts  # noqa: F401  # isort: skip  # first of all

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from dalle_base.common.bounds import From0, ShareBelow1
from dalle_base.common.errors import UserError, command
from dalle_base.common.free import Free, Place
from dalle_base.data.config import DataConfig, TextConfig
from dalle_base.data.sources import SOURCES, resolve_data
from dalle_base.training.changes import load_run_config
from dalle_base.training.config import OptimiserConfig, RunConfig, check_keep
from dalle_base.training.layers import complete_layers
from unclip.config import PriorConfig

if TYPE_CHECKING:
    from dalle_base.training.run import Run

USAGE = """
usage: python train_prior.py [--config configs/unclip/NAME-prior.yaml] [key=value ...]
       python train_prior.py --config configs/unclip/emoji-prior.yaml

Trains a prior over a frozen dual encoder on captioned images and writes run.out/model. The same
command resumes an interrupted run.
"""
SMALLER = "lower run.batch_size or the sizes of the model"


@dataclass
class TrainPrior:
    """All of a prior's training."""

    encoder: Annotated[str, Place("encoder")] = "models/emoji/reranker"
    """Folder of the frozen dual encoder."""
    model: PriorConfig = field(default_factory=PriorConfig)
    """The transformer and its diffusion."""
    text_drop: ShareBelow1 = 0.1
    """Share of captions that training hides, for guidance; 0.1 in the paper."""
    text: TextConfig = field(default_factory=TextConfig)
    """How captions vary."""
    data: Annotated[DataConfig, Place("data")] = field(
        default_factory=SOURCES["folder"], metadata={"resolve": resolve_data}
    )
    """The captioned images."""
    optimiser: OptimiserConfig = field(default_factory=OptimiserConfig)
    """The optimiser."""
    run: RunConfig = field(default_factory=RunConfig)
    """Length and output."""
    init: Annotated[str, Place("init")] = ""
    """Folder of a prior of the same size to start from, if any: fine-tuning."""
    keep: Free[str] = "best"
    """Which model the run's folder holds: best (by the loss of held-out pairs) or last."""
    held_out_images: Free[From0] = 256
    """How many held-out images are measured (0: all)."""
    sampling_steps: Free[From0] = 64
    """Steps by which embeddings are drawn for measuring."""

    @classmethod
    def prepare(cls, layers: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
        """Return config layers with shares of the run as numbers."""
        return complete_layers(cls, "prior", layers, {})

    def validate(self) -> None:
        """Raise `UserError` on impossible values."""
        check_keep(self.keep)
        if self.run.accumulate > 1:
            raise UserError("run.accumulate is 1 here: raise run.batch_size")


@command
def main() -> None:
    config = load_run_config(TrainPrior, USAGE, sys.argv[1:])
    from dalle_base.common.device import enough_memory
    from dalle_base.training.run import Run

    with enough_memory(SMALLER), Run(config) as run:
        train(config, run)


def train(config: TrainPrior, run: "Run") -> None:
    """Train, measure, and keep the prior in the run's folder."""
    import torch

    from dalle_base.common.checkpoint import start_from
    from dalle_base.training.trainer import Trainer
    from unclip.checkpoint import make_prior, save_prior
    from unclip.examples import chosen, open_training, random_steps
    from unclip.metrics import measure_prior
    from unclip.reading import embed_images

    device = run.accelerator.device
    training = open_training(config, run)
    encoder = training.encoder
    prior = make_prior(config.model, encoder.model.config)
    if init := run.init_folder(""):
        run.start(lambda: start_from(prior, Path(init)), init)
    trainer = Trainer(prior, config.optimiser, run.accelerator)
    run.resume(trainer)
    held_out, text = embed_images(encoder, training.held_out.images), training.held_out.text
    run.introduce(training.described, len(held_out), "cosine_image")

    for _ in run.updates():
        batch = next(training.batches)
        clean = embed_images(encoder, batch.images)
        steps = random_steps(len(clean), config.model.noise.steps, device)
        dropped = chosen(len(clean), config.text_drop, device)
        loss = trainer.model(clean, batch.text, steps, torch.randn_like(clean), dropped).mean()
        lr, value = trainer.lr, trainer.update(loss)
        run.log({"lr": lr, "loss": value})
        if run.measures():
            figures = measure_prior(trainer.average, held_out, text, config.sampling_steps)
            run.log(figures, now=True)
            best = run.is_best("held_out_loss", figures["held_out_loss"], lower=True)
            if best or config.keep == "last":
                save_prior(run.folder / "model", trainer.average, encoder)
    run.conclude(f"best held-out loss {run.best('held_out_loss'):.4f}")


if __name__ == "__main__":
    raise SystemExit(main())
