"""A text-to-image model's folder: transformer, text encoding and image tokenizer, all of it.

model.safetensors  config.yaml   the transformer
text.json                        the text encoding
tokenizer/                       the image tokenizer, a folder of its own
reranker/                        the dual encoder that scores what is sampled, if there is one
"""

import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import torch

from dalle.config import SamplingDefaults, TransformerConfig
from dalle.precision import in_precision
from dalle.text_to_image import TextToImage
from dalle.transformer import Transformer
from dalle_base.common.checkpoint import CONFIG, load_into, read_metadata, read_weights, write_model
from dalle_base.common.config import read_yaml, to_yaml
from dalle_base.common.errors import UserError
from dalle_base.common.files import write_folder
from dalle_base.common.fingerprints import check_seal, seal
from dalle_base.common.free import Free
from dalle_base.common.model_folders import TEXT_TO_IMAGE, find_model
from dalle_base.common.schema import build
from dalle_base.data.text import TEXT, TextTokenizer
from dual_encoder.checkpoint import load_dual_encoder
from dvae.checkpoint import read_tokenizer, save_tokenizer, tokenizer_fingerprint
from dvae.kinds import SavedTokenizer
from dvae.tokenizer import ImageTokenizer

TOKENIZER, RERANKER = "tokenizer", "reranker"
GUIDANCE = 4.0
"""Guidance scale of models whose folder does not name one."""
FINGERPRINT = "image_tokenizer"  # names the image tokenizer whose codes were learned


@dataclass
class SavedTransformer:
    """What a model folder's config.yaml says."""

    model: TransformerConfig = field(default_factory=TransformerConfig)
    """The transformer's config."""
    sampling: Free[SamplingDefaults] = field(default_factory=SamplingDefaults)
    """How to sample from it where nothing else is asked for."""

    @classmethod
    def read(cls, stored: Mapping[str, Any], place: str) -> Self:
        """Return what a config says, a training run's too. Raises `UserError`.

        Models from before folders kept `sampling` were sampled with guidance where they had learned
        what images look like without captions.
        """
        kept = {key: stored[key] for key in ("model", "sampling") if key in stored}
        read = build(cls(), kept, place)
        if "sampling" not in stored and read.model.text_drop:
            read.sampling = SamplingDefaults(guidance_scale=GUIDANCE)
        return read


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

    config = SavedTransformer(model.transformer.config, model.sampling)

    def contents(new: Path) -> None:
        write_model(
            new,
            model.transformer.state_dict(),
            to_yaml(config),
            metadata={FINGERPRINT: tokenizer_fingerprint(model.tokenizer)},
            dtype=torch.bfloat16,
        )
        model.text_tokenizer.save(new / TEXT)
        seal(new, config)
        save_tokenizer(new / TOKENIZER, model.tokenizer, tokenizer)
        if (folder / RERANKER).is_dir():  # put there by hand: it outlives the next save
            shutil.copytree(folder / RERANKER, new / RERANKER)

    write_folder(folder, contents)


def tokenizer_of(folder: Path) -> str:
    """Return the fingerprint of the image tokenizer whose codes a folder's model has learned.

    Of a saved model or a run's checkpoint; "" where it does not say.
    """
    stored = read_metadata(folder)
    return stored.get(FINGERPRINT) or stored.get("tokenizer", "")


def load_text_to_image(
    folder: str | Path,
    *,
    device: str | torch.device = "cpu",
    precision: str = "float32",
    compiled: bool = False,
    reranker: str | Path | None = None,
    rerank: bool = True,
) -> TextToImage:
    """Return a folder's models, in evaluation mode.

    Args:
        folder: written by `save_text_to_image`.
        device: where the models go.
        precision: of the transformer (`dalle.precision`).
        compiled: make its decoding step several times faster, for half a minute of compiling at
            the first batch of each size.
        reranker: a dual encoder's folder; by default the model folder's own, if it has one.
        rerank: whether to load a reranker at all.

    Raises:
        UserError: files that are missing, damaged or do not belong together.
    """
    folder = find_model(folder, TEXT_TO_IMAGE)
    transformer, sampling, fingerprint = _load_transformer(folder)
    tokenizer, saved_tokenizer = read_tokenizer(folder / TOKENIZER)
    check_fit(transformer.config, tokenizer, str(folder / TOKENIZER))
    if fingerprint != tokenizer_fingerprint(tokenizer):
        raise UserError(
            f"{folder / TOKENIZER} is not the image tokenizer that this model was trained with; "
            "copy the whole folder again"
        )
    check_seal(folder / TOKENIZER, saved_tokenizer)
    if reranker is None and (folder / RERANKER).is_dir():
        reranker = folder / RERANKER
    model = TextToImage(
        in_precision(transformer, precision),
        TextTokenizer.load(folder / TEXT),
        tokenizer,
        sampling=sampling,
        reranker=load_dual_encoder(Path(reranker)) if reranker and rerank else None,
    ).to(device)
    if compiled:
        from dalle.compiled import compile_step  # it takes seconds to import

        model.step = compile_step(model.transformer)
    return model


def _load_transformer(folder: Path) -> tuple[Transformer, SamplingDefaults, str | None]:
    """Return a folder's transformer, its sampling, and the fingerprint of its tokenizer."""
    weights = read_weights(folder)
    stored = read_yaml(folder / CONFIG)
    if not (folder / TEXT).exists() or "model" not in stored:
        raise UserError(f"{folder} is not a text-to-image model: it has no {TEXT}")
    config = SavedTransformer.read(stored, str(folder / CONFIG))
    transformer = Transformer(config.model)
    load_into(transformer, weights, folder)
    check_seal(folder, config)
    transformer.eval().requires_grad_(False)
    return transformer, config.sampling, read_metadata(folder).get(FINGERPRINT)
