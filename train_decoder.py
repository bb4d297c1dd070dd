"""DALL-E 2's decoder: train diffusion over pixels, given image embeddings (unCLIP, section 2.1)."""

import dalle_base.common.interrupts  # noqa: F401  # isort: skip  # first of all

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar

from dalle_base.common.bounds import From0, From1, ShareBelow1
from dalle_base.common.errors import command
from dalle_base.common.free import Free
from unclip.config import DecoderConfig
from unclip.training import TrainOverEncoder, run_script

if TYPE_CHECKING:
    from dalle_base.training.run import Run
    from unclip.decoder import Decoder
    from unclip.examples import Training

USAGE = """
usage: python train_decoder.py [--config configs/unclip/NAME-decoder.yaml] [key=value ...]
       python train_decoder.py --config configs/unclip/emoji-decoder.yaml

Trains a decoder over a frozen dual encoder on captioned images and writes run.out/model. The same
command resumes an interrupted run.
"""
SMALLER = "lower run.batch_size or the sizes of the model, or raise model.patch"
PREVIEWED = 8
"""Held-out images that are decoded at each measurement."""


@dataclass
class TrainDecoder(TrainOverEncoder):
    """All of a decoder's training."""

    KIND: ClassVar[str] = "decoder"
    SHAPE: ClassVar = (
        *("image_size", "patch", "channels", "blocks", "attention", "head_width"),
        *("context_width", "image_tokens", "norm_groups", "noise"),
    )

    model: DecoderConfig = field(default_factory=DecoderConfig)
    """The U-Net and its diffusion."""
    image_drop: ShareBelow1 = 0.1
    """Share of embeddings that training hides, for guidance; 0.1 in the paper."""
    text_drop: ShareBelow1 = 0.5
    """Share of captions that training hides, besides; 0.5 in the paper."""
    held_out_images: Free[From0] = 128
    """How many held-out images are measured (0: all)."""
    sampling_steps: Free[From1] = 25
    """Steps by which the samples of a measurement are decoded."""


@command
def main() -> None:
    run_script(TrainDecoder, USAGE, SMALLER, train)


def train(config: TrainDecoder, run: "Run") -> None:
    """Train, measure, and keep the decoder in the run's folder."""
    import torch

    from unclip.checkpoint import make_decoder, save_decoder
    from unclip.decoder import Condition
    from unclip.examples import chosen, open_training, random_steps
    from unclip.metrics import measure_decoder
    from unclip.reading import embed_images
    from unclip.training import FIGURE, begin, log_and_keep

    device = run.accelerator.device
    training = open_training(config, run, config.model.image_size)
    encoder, measured = training.encoder, training.held_out
    decoder = make_decoder(config.model, encoder.model.config)
    trainer = begin(config, run, decoder)
    run.introduce(training.described, len(measured.images), "held_out_loss")

    for _ in run.updates():
        images, text = next(training.batches)
        count = len(images)
        # Each is hidden by itself: of a twentieth of the images nothing is seen.
        no_image, no_text = (
            chosen(count, share, device) for share in (config.image_drop, config.text_drop)
        )
        condition = Condition(embed_images(encoder, images), text, no_image, no_text)
        steps = random_steps(count, config.model.noise.steps, device)
        loss = trainer.model(images, condition, steps, torch.randn_like(images)).mean()
        lr, value = trainer.lr, trainer.update(loss)
        run.log({"lr": lr, "loss": value})
        if run.measures():
            figures = measure_decoder(
                trainer.average, measured.images, training.embedding, measured.text
            )
            log_and_keep(
                config, run, figures, lambda out: save_decoder(out, trainer.average, encoder)
            )
            preview(run, trainer.average, training, config.sampling_steps)
    run.conclude(f"best held-out loss {run.best(FIGURE):.4f}")


def preview(run: "Run", decoder: "Decoder", training: "Training", steps: int) -> None:
    """Write a grid of held-out images over what is decoded of their embeddings."""
    import torch

    from dalle_base.common.images import grid, to_image
    from unclip.decoder import shown
    from unclip.metrics import noise_like

    held_out = training.held_out
    images, text = held_out.images[:PREVIEWED], held_out.text.part(slice(PREVIEWED))
    condition = shown(training.embedding[:PREVIEWED], text, read=True)
    *_, drawn = decoder.sample(condition, noise_like(images), steps)
    both = [to_image(image) for image in torch.cat([images, drawn])]
    labels = [caption[:10] for caption in training.captions[: len(images)]]
    sheet = grid(both, len(images), [*labels, *labels], "held-out images, and decoded", scale=2)
    run.show("samples", sheet)


if __name__ == "__main__":
    raise SystemExit(main())
