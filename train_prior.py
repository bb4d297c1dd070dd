"""DALL-E 2's prior: train diffusion over a dual encoder's embeddings (unCLIP, section 2.2)."""

import dalle_base.common.interrupts  # noqa: F401  # isort: skip  # first of all

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar

from dalle_base.common.bounds import From1, ShareBelow1
from dalle_base.common.errors import command
from dalle_base.common.free import Free
from unclip.config import PriorConfig
from unclip.training import TrainOverEncoder, run_script

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
class TrainPrior(TrainOverEncoder):
    """All of a prior's training."""

    KIND: ClassVar[str] = "prior"
    SHAPE: ClassVar = ("layers", "heads", "head_width", "noise")

    model: PriorConfig = field(default_factory=PriorConfig)
    """The transformer and its diffusion."""
    text_drop: ShareBelow1 = 0.1
    """Share of captions that training hides, for guidance; 0.1 in the paper."""
    sampling_steps: Free[From1] = 64
    """Steps by which embeddings are drawn for measuring."""


@command
def main() -> None:
    run_script(TrainPrior, USAGE, SMALLER, train)


def train(config: TrainPrior, run: "Run") -> None:
    """Train, measure, and keep the prior in the run's folder."""
    import torch

    from unclip.checkpoint import make_prior, save_prior
    from unclip.examples import chosen, open_training, random_steps
    from unclip.metrics import measure_prior
    from unclip.reading import embed_images
    from unclip.training import FIGURE, begin, log_and_keep

    device = run.accelerator.device
    training = open_training(config, run)
    encoder = training.encoder
    prior = make_prior(config.model, encoder.model.config)
    trainer = begin(config, run, prior)
    measured = training.held_out
    run.introduce(training.described, len(measured.images), "cosine_image")

    for _ in run.updates():
        batch = next(training.batches)
        clean = embed_images(encoder, batch.images)
        steps = random_steps(len(clean), config.model.noise.steps, device)
        dropped = chosen(len(clean), config.text_drop, device)
        loss = trainer.model(clean, batch.text, steps, torch.randn_like(clean), dropped).mean()
        lr, value = trainer.lr, trainer.update(loss)
        run.log({"lr": lr, "loss": value})
        if run.measures():
            figures = measure_prior(
                trainer.average, training.embedding, measured.text, config.sampling_steps
            )
            log_and_keep(
                config, run, figures, lambda out: save_prior(out, trainer.average, encoder)
            )
    run.conclude(f"best held-out loss {run.best(FIGURE):.4f}")


if __name__ == "__main__":
    raise SystemExit(main())
