"""A tokenizer's checkpoint folder: weights and config, and nothing else needed."""

from pathlib import Path

import torch

from dalle_base.common.checkpoint import CONFIG, fingerprint, load_into, read_weights, write_model
from dalle_base.common.config import read_yaml, to_yaml
from dalle_base.common.errors import UserError
from dalle_base.common.files import write_folder
from dalle_base.common.fingerprints import check_seal, seal
from dalle_base.common.model_folders import TOKENIZER, find_model
from dalle_base.common.schema import build
from dvae.kinds import SavedTokenizer, tokenizer_class
from dvae.tokenizer import ImageTokenizer


def save_tokenizer(folder: Path, tokenizer: ImageTokenizer, config: SavedTokenizer) -> None:
    """Write a tokenizer's folder, in the precision that `config` says."""
    dtype = getattr(torch, config.precision)

    def contents(new: Path) -> None:
        write_model(new, tokenizer.state_dict(), to_yaml(config), dtype=dtype)
        seal(new, config)

    write_folder(folder, contents)


def load_tokenizer(folder: Path) -> tuple[ImageTokenizer, SavedTokenizer]:
    """Return a folder's tokenizer in float32, in evaluation mode. Raises `UserError`.

    A training run's checkpoint works as well as a saved tokenizer.
    """
    folder = find_model(folder, TOKENIZER)
    tokenizer, config = read_tokenizer(folder)
    check_seal(folder, config)
    return tokenizer, config


def read_tokenizer(folder: Path) -> tuple[ImageTokenizer, SavedTokenizer]:
    """Return what `load_tokenizer` does, whether or not the files are those that were saved."""
    weights = read_weights(folder)
    config = read_config(folder)
    tokenizer = tokenizer_class(config.tokenizer)(config.model)
    load_into(tokenizer, weights, folder)
    return tokenizer.eval().requires_grad_(False), config


def read_config(folder: Path) -> SavedTokenizer:
    """Return what a folder's config says of its tokenizer. Raises `UserError`."""
    stored = read_yaml(folder / CONFIG)
    if "tokenizer" not in stored or "model" not in stored:
        raise UserError(f"{folder} is not a tokenizer's folder: its {CONFIG} has no tokenizer")
    # A training run's config has more keys, which are not the tokenizer's.
    kept = {name: stored[name] for name in ("tokenizer", "model", "precision") if name in stored}
    return build(SavedTokenizer.defaults(kept), kept, str(folder / CONFIG))


def tokenizer_fingerprint(tokenizer: ImageTokenizer) -> str:
    """Return a short hash that stage two stores, to refuse a tokenizer with other codes."""
    return fingerprint(tokenizer.code_state())
