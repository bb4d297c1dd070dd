"""Small transformers that several test files share."""

import dataclasses

import torch

from dalle.config import TransformerConfig
from dalle.transformer import Transformer


def tiny(**changes) -> TransformerConfig:
    """A config of a tiny transformer."""
    config = TransformerConfig(
        text_vocab=11,
        image_vocab=13,
        text_length=3,
        rows=3,
        columns=4,
        depth=2,
        heads=2,
        head_width=4,
        d_model=12,
        pattern_options={"conv": {"kernel": 3}},
    )
    return dataclasses.replace(config, **changes)


def build(seed: int = 0, **changes) -> Transformer:
    """A tiny transformer with weights large enough to tell faults by."""
    torch.manual_seed(seed)
    model = Transformer(tiny(**changes))
    for parameter in model.parameters():  # the usual start is too near to zero
        torch.nn.init.normal_(parameter, std=0.3)
    return model


def inputs(model: Transformer, batch: int = 2) -> tuple[torch.Tensor, torch.Tensor]:
    """Token ids [batch, T] and codes [batch, RC] for a model."""
    generator = torch.Generator().manual_seed(1)
    config, stream = model.config, model.stream
    tokens = torch.randint(config.text_vocab, (batch, stream.text_length), generator=generator)
    codes = torch.randint(config.image_vocab, (batch, stream.image_length), generator=generator)
    return tokens, codes
