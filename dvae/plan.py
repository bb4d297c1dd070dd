"""What training an image tokenizer needs of memory: see `dalle_base.training.plan`."""

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from dalle_base.training.config import OptimiserConfig, RunConfig
from dalle_base.training.plan import Needs, Pass, follow
from dvae.kinds import SavedTokenizer, tokenizer_class

if TYPE_CHECKING:
    from dvae.tokenizer import ImageTokenizer


def tokenizer_needs(saved: SavedTokenizer, optimiser: OptimiserConfig, run: RunConfig) -> Needs:
    """Return what a process needs for one batch, without perceptual and adversarial losses."""
    return follow(*tokenizer_pass(saved, run), optimiser, run.mixed_precision)


def tokenizer_pass(saved: SavedTokenizer, run: RunConfig) -> Pass:
    """Return a tokenizer without weights, and its loss on a batch of zeros."""
    with torch.device("meta"):
        tokenizer: ImageTokenizer = tokenizer_class(saved.tokenizer)(saved.model)

    def loss(model: nn.Module) -> Tensor:
        size = tokenizer.image_size
        return model(torch.zeros(run.batch_size, 3, size, size), 0).total

    return tokenizer, loss
