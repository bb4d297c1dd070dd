"""A text-to-image model's folder: transformer, text encoding and image tokenizer, all of it.

model.safetensors  config.yaml   the transformer
text.json                        the text encoding
tokenizer/                       the image tokenizer, a folder of its own
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import torch
from omegaconf import OmegaConf
from PIL import Image
from torch import Tensor

from dalle.text import TextTokenizer
from dalle.transformer import Transformer, TransformerConfig
from dvae.checkpoint import (
    SavedTokenizer,
    load_tokenizer,
    save_tokenizer,
    tokenizer_fingerprint,
)
from dvae.tokenizer import ImageTokenizer
from training.checkpoint import (
    CONFIG,
    load_into,
    read_metadata,
    read_weights,
    write_folder,
    write_model,
)
from training.config import merge, read_yaml, to_yaml
from training.errors import UserError
from training.pictures import to_picture

TEXT, TOKENIZER = "text.json", "tokenizer"
FINGERPRINT = "image_tokenizer"  # names the image tokenizer whose codes were learned


@dataclass
class SavedTransformer:
    """What a model folder's config.yaml says."""

    model: TransformerConfig = field(default_factory=TransformerConfig)
    """The transformer's config."""


class TextToImage(NamedTuple):
    """Everything that turns a caption into pictures."""

    transformer: Transformer
    text: TextTokenizer
    tokenizer: ImageTokenizer

    def pictures(self, codes: Tensor, batch_size: int = 64) -> list[Image.Image]:
        """Return the pictures of drawn codes [N, R·C], decoded `batch_size` at a time."""
        grids = codes.unflatten(1, (self.tokenizer.rows, self.tokenizer.columns))
        decoded = [self.tokenizer.decode(part) for part in grids.split(batch_size)]
        return [to_picture(image) for part in decoded for image in part]


def check_fit(model: TransformerConfig, tokenizer: ImageTokenizer, name: str) -> None:
    """Raise `UserError` that names the key unless the transformer fits the image tokenizer."""
    for key, own, needed in (
        ("rows", model.rows, tokenizer.rows),
        ("columns", model.columns, tokenizer.columns),
        ("image_vocab", model.image_vocab, tokenizer.vocab_size),
    ):
        if own != needed:
            raise UserError(
                f"model.{key}={own} does not fit the image tokenizer {name}: write "
                f"model.{key}={needed}, or name another tokenizer"
            )


def save_text_to_image(folder: Path, model: TextToImage, tokenizer: SavedTokenizer) -> None:
    """Write a model folder, whole or not at all, in bfloat16."""

    def contents(new: Path) -> None:
        write_model(
            new,
            model.transformer.state_dict(),
            to_yaml(SavedTransformer(model.transformer.config)),
            metadata={FINGERPRINT: tokenizer_fingerprint(model.tokenizer)},
            dtype=torch.bfloat16,
        )
        model.text.save(new / TEXT)
        save_tokenizer(new / TOKENIZER, model.tokenizer, tokenizer)

    write_folder(folder, contents)


def load_text_to_image(folder: Path) -> TextToImage:
    """Return a folder's models in float32, in evaluation mode. Raises `UserError`."""
    weights = read_weights(folder)
    stored = read_yaml(folder / CONFIG)
    if not (folder / TEXT).exists() or "model" not in stored:
        raise UserError(f"{folder} is not a text-to-image model: it has no {TEXT}")
    kept = OmegaConf.create({"model": stored.model})
    config: SavedTransformer = merge(SavedTransformer(), kept, source=str(folder / CONFIG))
    tokenizer, _ = load_tokenizer(folder / TOKENIZER)
    check_fit(config.model, tokenizer, str(folder / TOKENIZER))
    expected = read_metadata(folder).get(FINGERPRINT)
    if expected != tokenizer_fingerprint(tokenizer):
        raise UserError(
            f"{folder / TOKENIZER} is not the image tokenizer that this model was trained with; "
            "copy the whole folder again"
        )
    transformer = Transformer(config.model)
    load_into(transformer, weights, folder)
    return TextToImage(
        transformer.eval().requires_grad_(False), TextTokenizer.load(folder / TEXT), tokenizer
    )
