"""What training a dual encoder needs of memory: see `dalle_base.training.plan`."""

import torch
from torch import Tensor, nn

from dalle_base.training.config import OptimiserConfig, RunConfig
from dalle_base.training.plan import Needs, Pass, follow
from dual_encoder.config import DualEncoderConfig, LossConfig
from dual_encoder.loss import contrastive_loss
from dual_encoder.model import DualEncoder


def dual_encoder_needs(
    config: DualEncoderConfig,
    loss_config: LossConfig,
    chunk: int,
    optimiser: OptimiserConfig,
    run: RunConfig,
) -> Needs:
    """Return what a process needs for one batch, encoded `chunk` pairs at a time (0: at once).

    Similarities are those of its own pairs: those with other processes' pairs come on top.
    """
    made = dual_encoder_pass(config, loss_config, chunk, run)
    return follow(*made, optimiser, run.mixed_precision)


def dual_encoder_pass(
    config: DualEncoderConfig, loss_config: LossConfig, chunk: int, run: RunConfig
) -> Pass:
    """Return a dual encoder without weights, and its loss on a batch of zeros."""
    with torch.device("meta"):
        encoder = DualEncoder(config)

    def loss(model: nn.Module) -> Tensor:
        size, batch = config.image_size, run.batch_size
        images = torch.zeros(batch, 3, size, size)
        text = torch.zeros(batch, config.text_length, dtype=torch.long)
        concepts = torch.zeros(batch, dtype=torch.long)
        features = model(images, text, chunk)
        return contrastive_loss(*features, concepts=concepts, config=loss_config, alone=True)

    return encoder, loss
