"""A dual encoder's folder.

model.safetensors  config.yaml   the two towers
text.json                        the text encoding
"""

from dataclasses import dataclass, field
from pathlib import Path

import torch

from dalle_base.common.checkpoint import CONFIG, load_into, read_weights, write_model
from dalle_base.common.config import read_yaml, to_yaml
from dalle_base.common.errors import UserError
from dalle_base.common.files import write_folder
from dalle_base.common.fingerprints import check_seal, seal
from dalle_base.common.model_folders import DUAL_ENCODER, find_model
from dalle_base.common.schema import build
from dalle_base.data.text import TEXT, TextTokenizer
from dual_encoder.config import DualEncoderConfig
from dual_encoder.model import DualEncoder
from dual_encoder.ranker import Ranker
from dual_encoder.text import check_vocabulary


@dataclass
class SavedDualEncoder:
    """What a dual encoder's config.yaml says."""

    dual_encoder: DualEncoderConfig = field(default_factory=DualEncoderConfig)
    """The model's config."""


def save_dual_encoder(folder: Path, ranker: Ranker, dtype: torch.dtype = torch.bfloat16) -> None:
    """Write a dual encoder's folder, whole or not at all."""

    def contents(new: Path) -> None:
        config = SavedDualEncoder(ranker.model.config)
        write_model(new, ranker.model.state_dict(), to_yaml(config), dtype=dtype)
        ranker.text_tokenizer.save(new / TEXT)
        seal(new, config)

    write_folder(folder, contents)


def is_dual_encoder(folder: Path) -> bool:
    """Whether a folder says that it holds a dual encoder."""
    return (folder / CONFIG).is_file() and "dual_encoder" in read_yaml(folder / CONFIG)


def load_dual_encoder(folder: Path) -> Ranker:
    """Return a folder's dual encoder in float32, in evaluation mode. Raises `UserError`."""
    folder = find_model(folder, DUAL_ENCODER)
    weights = read_weights(folder)
    saved = read_config(folder)
    config = saved.dual_encoder
    text_tokenizer = TextTokenizer.load(folder / TEXT)
    check_vocabulary(text_tokenizer, config)
    model = DualEncoder(config)
    load_into(model, weights, folder)
    check_seal(folder, saved)
    return Ranker(model.eval().requires_grad_(False), text_tokenizer)


def read_config(folder: Path) -> SavedDualEncoder:
    """Return what a folder's config says of its dual encoder. Raises `UserError`."""
    stored = read_yaml(folder / CONFIG)
    if not (folder / TEXT).exists() or "dual_encoder" not in stored:
        raise UserError(f"{folder} is not a dual encoder: it has no {TEXT} or another config")
    kept = {"dual_encoder": stored["dual_encoder"]}
    return build(SavedDualEncoder(), kept, str(folder / CONFIG))
