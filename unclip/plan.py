"""What training a prior or a decoder needs of memory: see `dalle_base.training.plan`."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from dalle_base.common.model_folders import DUAL_ENCODER, find_model
from dalle_base.training.config import OptimiserConfig, RunConfig
from dalle_base.training.plan import Needs, follow
from dual_encoder.checkpoint import read_config
from dual_encoder.config import DualEncoderConfig
from unclip.checkpoint import make_decoder, make_prior
from unclip.config import DecoderConfig, PriorConfig
from unclip.decoder import shown
from unclip.reading import Caption
from unclip.training import TrainOverEncoder


def needs_of(config: TrainOverEncoder) -> Needs:
    """Return what a process of a training of prior or decoder needs for one batch."""
    model: Any = config.model  # type: ignore[attr-defined]
    needs = {"prior": prior_needs, "decoder": decoder_needs}[config.KIND]
    return needs(model, sizes_of(config.encoder), config.optimiser, config.run)


def sizes_of(folder: str) -> DualEncoderConfig:
    """Return the sizes of a folder's dual encoder; where nothing is there, those of ViT-B/32.

    Raises `UserError` for a folder of something else.
    """
    if not Path(folder).exists():
        return DualEncoderConfig()
    return read_config(find_model(Path(folder), DUAL_ENCODER)).dual_encoder


def prior_needs(
    config: PriorConfig, encoder: DualEncoderConfig, optimiser: OptimiserConfig, run: RunConfig
) -> Needs:
    """Return what a process needs for one batch, beside the frozen dual encoder."""
    with torch.device("meta"):
        prior = make_prior(config, encoder)
    prior.shares = torch.zeros(config.noise.steps)

    def loss(model: nn.Module) -> Tensor:
        clean = torch.zeros(run.batch_size, encoder.embed_dim)
        steps = torch.zeros(run.batch_size, dtype=torch.long)
        dropped = torch.zeros(run.batch_size, dtype=torch.bool)
        return model(clean, blank(encoder, run.batch_size), steps, clean, dropped).mean()

    return follow(prior, loss, optimiser, run.mixed_precision)


def decoder_needs(
    config: DecoderConfig, encoder: DualEncoderConfig, optimiser: OptimiserConfig, run: RunConfig
) -> Needs:
    """Return what a process needs for one batch, beside the frozen dual encoder."""
    with torch.device("meta"):
        decoder = make_decoder(config, encoder)
    decoder.shares = torch.zeros(config.noise.steps)

    def loss(model: nn.Module) -> Tensor:
        images = torch.zeros(run.batch_size, 3, config.image_size, config.image_size)
        steps = torch.zeros(run.batch_size, dtype=torch.long)
        text = blank(encoder, run.batch_size)
        condition = shown(torch.zeros_like(text.embedding), text, read=True)
        return model(images, condition, steps, images).mean()

    return follow(decoder, loss, optimiser, run.mixed_precision)


def blank(encoder: DualEncoderConfig, count: int) -> Caption:
    """Return captions of zeros."""
    length = encoder.text_length
    return Caption(
        torch.zeros(count, encoder.embed_dim),
        torch.zeros(count, length, encoder.text.width),
        torch.ones(count, length, dtype=torch.bool),
    )
