"""A text-to-image model's folder: transformer, text encoding and image tokenizer, all of it.

model.safetensors  config.yaml   the transformer
text.json                        the text encoding
tokenizer/                       the image tokenizer, a folder of its own
reranker/                        the dual encoder that scores what is drawn, if there is one
"""

import shutil
from dataclasses import dataclass, field
from pathlib import Path

import torch
from omegaconf import OmegaConf

from dalle.precision import in_precision
from dalle.text import TEXT, TextTokenizer
from dalle.text_to_image import TextToImage
from dalle.transformer import Transformer, TransformerConfig
from dual_encoder.checkpoint import load_dual_encoder
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

TOKENIZER, RERANKER = "tokenizer", "reranker"
FINGERPRINT = "image_tokenizer"  # names the image tokenizer whose codes were learned


@dataclass
class SavedTransformer:
    """What a model folder's config.yaml says."""

    model: TransformerConfig = field(default_factory=TransformerConfig)
    """The transformer's config."""


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
        if (folder / RERANKER).is_dir():  # put there by hand: it outlives the next save
            shutil.copytree(folder / RERANKER, new / RERANKER)

    write_folder(folder, contents)


def load_text_to_image(
    folder: str | Path,
    precision: str = "float32",
    compiled: bool = False,
    reranker: str | Path | None = None,
) -> TextToImage:
    """Return a folder's models, in evaluation mode. Raises `UserError`.

    `precision` is that of the transformer (`dalle.precision`). `compiled` makes its decoding step
    several times faster, for half a minute of compiling at the first batch of each size.
    `reranker` is a dual encoder's folder; by default it is the model folder's own, if it has one.
    """
    folder = Path(folder)
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
    transformer = in_precision(transformer.eval().requires_grad_(False), precision)
    step = None
    if compiled:
        from dalle.compiled import compile_step  # it takes seconds to import

        step = compile_step(transformer)
    if reranker is None and (folder / RERANKER).is_dir():
        reranker = folder / RERANKER
    ranker = load_dual_encoder(Path(reranker)) if reranker else None
    return TextToImage(transformer, TextTokenizer.load(folder / TEXT), tokenizer, step, ranker)
