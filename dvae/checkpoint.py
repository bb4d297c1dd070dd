"""A tokenizer's checkpoint folder: weights and config, and nothing else needed."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import torch
from omegaconf import DictConfig, OmegaConf

from dvae.model import DiscreteVAE, DVAEConfig
from dvae.tokenizer import ImageTokenizer
from training.checkpoint import (
    CONFIG,
    fingerprint,
    load_into,
    read_weights,
    write_folder,
    write_model,
)
from training.config import merge, read_yaml, to_yaml
from training.errors import UserError

PRECISIONS = {"bfloat16": torch.bfloat16, "float32": torch.float32}

# ADD A TOKENIZER = one module with a config and an ImageTokenizer, and one line here.
TOKENIZERS: dict[str, tuple[type, type[ImageTokenizer]]] = {"dvae": (DVAEConfig, DiscreteVAE)}


@dataclass
class SavedTokenizer:
    """What a tokenizer folder's config.yaml says."""

    tokenizer: str = "dvae"
    """Kind of tokenizer: a name in TOKENIZERS."""
    model: Any = field(default_factory=DVAEConfig)
    """Its config, of the class that TOKENIZERS has for the kind."""
    precision: str = "bfloat16"
    """How its weights are stored: bfloat16, or float32 (published weights keep theirs)."""

    def validate(self) -> None:
        """Raise `UserError` on an unknown precision."""
        if self.precision not in PRECISIONS:
            raise UserError(f"precision is {self.precision!r}; use one of {', '.join(PRECISIONS)}")

    @classmethod
    def defaults(cls, written: DictConfig) -> Self:
        """Return the defaults of the kind that `written` names. Raises `UserError`."""
        kind = written.get("tokenizer", "dvae")
        if kind not in TOKENIZERS:
            raise UserError(f"tokenizer is {kind!r}; use one of {', '.join(sorted(TOKENIZERS))}")
        return cls(tokenizer=kind, model=TOKENIZERS[kind][0]())


def save_tokenizer(folder: Path, tokenizer: ImageTokenizer, config: SavedTokenizer) -> None:
    """Write a tokenizer's folder, in the precision that `config` says."""
    dtype = PRECISIONS[config.precision]
    write_folder(
        folder,
        lambda new: write_model(new, tokenizer.state_dict(), to_yaml(config), dtype=dtype),
    )


def load_tokenizer(folder: Path) -> tuple[ImageTokenizer, SavedTokenizer]:
    """Return a folder's tokenizer in float32, in evaluation mode. Raises `UserError`.

    A training run's checkpoint works as well as a saved tokenizer.
    """
    weights = read_weights(folder)
    stored = read_yaml(folder / CONFIG)
    if "tokenizer" not in stored or "model" not in stored:
        raise UserError(f"{folder} is not a tokenizer's folder: its {CONFIG} has no tokenizer")
    # A training run's config has more keys, which are not the tokenizer's.
    kept = OmegaConf.create(
        {name: stored[name] for name in ("tokenizer", "model", "precision") if name in stored}
    )
    schema = SavedTokenizer.defaults(kept)
    config: SavedTokenizer = merge(schema, kept, source=str(folder / CONFIG))
    tokenizer = TOKENIZERS[config.tokenizer][1](config.model)
    load_into(tokenizer, weights, folder)
    return tokenizer.eval().requires_grad_(False), config


def tokenizer_fingerprint(tokenizer: ImageTokenizer) -> str:
    """Return a short hash that stage two stores, to refuse a tokenizer with other codes."""
    return fingerprint(tokenizer.code_state())
