"""What prior and decoder train on and are measured on: images, and captions as tokens."""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from dalle_base.common.images import to_array, to_tensor
from dalle_base.data.batches import ImageDataset
from dalle_base.data.fingerprint import data_fingerprint
from dalle_base.data.sources import open_sources
from dalle_base.data.sources.captioned import captioned_pair
from dalle_base.training.shares import fit_run
from dual_encoder.checkpoint import load_dual_encoder
from dual_encoder.examples import PairMaker, fresh_pairs, held_out_pairs
from dual_encoder.ranker import Ranker
from unclip.reading import (
    Caption,
    embed_images,
    encoder_fingerprint,
    read_captions,
    read_tokens,
)

if TYPE_CHECKING:
    from dalle_base.training.run import Run


class Batch(NamedTuple):
    """B captioned images."""

    images: Tensor
    """[B, 3, S, S] in [0, 1]."""
    text: Caption
    """Their captions."""


class Training(NamedTuple):
    """What a run trains on."""

    encoder: Ranker
    batches: Iterator[Batch]
    held_out: Batch
    embedding: Tensor
    """[N, E] of the held-out images."""
    captions: list[str]
    """Of the held-out images."""
    described: str
    """How many images there are."""


def open_training(config: Any, run: "Run", size: int = 0) -> Training:
    """Return the dual encoder, the batches of an endless training, and what is measured on.

    Args:
        config: with encoder, data, text and held_out_images.
        run: the run.
        size: side of the images in pixels; 0: what the dual encoder reads.

    Raises:
        UserError: data or a dual encoder that cannot be read.
    """
    device = run.accelerator.device
    encoder = load_dual_encoder(Path(config.encoder)).to(device)
    size = size or encoder.model.config.image_size
    train, held_out = captioned_pair(*open_sources(config.data))
    fit_run(run, train)
    run.fed |= {"data": data_fingerprint(train), "encoder": encoder_fingerprint(encoder)}
    images = ImageDataset(train, size, config.data.augment, config.data.max_skipped)
    pairs = PairMaker(encoder.text_tokenizer, encoder.model.config, config.text, [])

    def batches() -> Iterator[Batch]:
        order = run.order(images.count)
        for batch in fresh_pairs(images, order, config.data.workers, pairs):
            yield Batch(batch.images.to(device), read_tokens(encoder, batch.tokens.to(device)))

    measured = held_out_pairs(held_out, size, config.held_out_images)
    pixels = to_tensor([to_array(image) for image in measured.images]).to(device)
    return Training(
        encoder,
        batches(),
        Batch(pixels, read_captions(encoder, measured.captions)),
        embed_images(encoder, pixels),
        measured.captions,
        images.described,
    )


def random_steps(count: int, steps: int, device: torch.device) -> Tensor:
    """Return a step of diffusion for each of `count` examples, each as likely as any other."""
    return torch.randint(steps, (count,), device=device)


def chosen(count: int, share: float, device: torch.device) -> Tensor:
    """Return for each of `count` examples whether it is one of a random share, bool [count]."""
    return torch.rand(count, device=device) < share
