"""What training a transformer needs of memory: see `dalle_base.training.plan`."""

from dataclasses import replace

import torch
from torch import Tensor, nn

from dalle.config import TransformerConfig
from dalle.transformer import Transformer
from dalle_base.training.config import OptimiserConfig, RunConfig
from dalle_base.training.plan import Needs, Pass, extended, follow

FEW, MORE = 4, 8
"""Layers of the two models that are followed in place of a deeper one."""


def transformer_needs(
    config: TransformerConfig, optimiser: OptimiserConfig, run: RunConfig
) -> Needs:
    """Return what a process needs for one batch. Raises `UserError` for a config that is no model.

    Of a deep model two shallow ones are followed, with its first layers and its last one: what a
    layer adds is the same however many there are.
    """
    config.validate()
    layers = config.patterns
    if len(layers) <= MORE:
        return _followed(config, layers, optimiser, run)
    small, large = (
        _followed(config, [*layers[: count - 1], layers[-1]], optimiser, run)
        for count in (FEW, MORE)
    )
    return extended(small, large, (len(layers) - MORE) / (MORE - FEW))


def _followed(
    config: TransformerConfig, layers: list[str], optimiser: OptimiserConfig, run: RunConfig
) -> Needs:
    shallow = replace(config, depth=len(layers), layers=layers)
    return follow(*transformer_pass(shallow, run), optimiser, run.mixed_precision)


def transformer_pass(config: TransformerConfig, run: RunConfig) -> Pass:
    """Return a transformer without weights, and its loss on a batch of zeros."""
    with torch.device("meta"):
        model = Transformer(config)

    def loss(model: nn.Module) -> Tensor:
        tokens = torch.zeros(run.batch_size, config.text_length, dtype=torch.long)
        codes = torch.zeros(run.batch_size, config.rows * config.columns, dtype=torch.long)
        return model(tokens, codes).total

    return model, loss
