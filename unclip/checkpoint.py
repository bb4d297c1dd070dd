"""Folders of priors and decoders, and of both together: a DALL-E 2.

config.yaml      which dual encoder, and how to sample
prior/           model.safetensors, config.yaml
decoder/         model.safetensors, config.yaml
"""

import os
import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from dalle_base.common.checkpoint import CONFIG, load_into, read_metadata, read_weights, write_model
from dalle_base.common.config import read_yaml, to_yaml
from dalle_base.common.errors import UserError
from dalle_base.common.files import write_folder
from dalle_base.common.fingerprints import check_seal, seal
from dalle_base.common.free import Free
from dalle_base.common.model_folders import PART, find_model
from dalle_base.common.schema import build
from dual_encoder.checkpoint import load_dual_encoder
from dual_encoder.config import DualEncoderConfig
from dual_encoder.ranker import Ranker
from unclip.config import DecoderConfig, PriorConfig, UnclipSampling
from unclip.decoder import Decoder
from unclip.prior import Prior
from unclip.reading import check_encoder, encoder_fingerprint

PRIOR, DECODER, ENCODER = PART, "decoder", "dual_encoder"
"""Folders of a DALL-E 2, and what weights know their dual encoder by."""


@dataclass
class SavedPrior:
    """What a prior's config.yaml says."""

    prior: PriorConfig = field(default_factory=PriorConfig)
    """Its config."""


@dataclass
class SavedDecoder:
    """What a decoder's config.yaml says."""

    decoder: DecoderConfig = field(default_factory=DecoderConfig)
    """Its config."""


@dataclass
class SavedUnclip:
    """What a DALL-E 2's config.yaml says."""

    unclip: str = ""
    """Folder of the dual encoder, seen from this one."""
    sampling: Free[UnclipSampling] = field(default_factory=UnclipSampling)
    """How to sample from it where nothing else is asked for."""


def make_prior(config: PriorConfig, encoder: DualEncoderConfig) -> Prior:
    """Return a prior over a dual encoder, without trained weights."""
    return Prior(config, encoder.embed_dim, encoder.text.width, encoder.text_length)


def make_decoder(config: DecoderConfig, encoder: DualEncoderConfig) -> Decoder:
    """Return a decoder over a dual encoder, without trained weights."""
    return Decoder(config, encoder.embed_dim, encoder.text.width)


def save_prior(folder: Path, prior: Prior, encoder: Ranker) -> None:
    """Write a prior's folder in bfloat16, whole or not at all."""
    _save(folder, prior, SavedPrior(prior.config), encoder)


def save_decoder(folder: Path, decoder: Decoder, encoder: Ranker) -> None:
    """Write a decoder's folder in bfloat16, whole or not at all."""
    _save(folder, decoder, SavedDecoder(decoder.config), encoder)


def _save(folder: Path, model: torch.nn.Module, config: Any, encoder: Ranker) -> None:
    known = {ENCODER: encoder_fingerprint(encoder)}

    def contents(new: Path) -> None:
        write_model(new, model.state_dict(), to_yaml(config), known, torch.bfloat16)
        seal(new, config)

    write_folder(folder, contents)


def load_prior(folder: Path, encoder: Ranker) -> Prior:
    """Return a folder's prior in float32, in evaluation mode.

    Raises `UserError`, also where it was trained over another dual encoder.
    """
    folder, stored = _read(folder, PRIOR)
    saved = build(SavedPrior(), {PRIOR: stored[PRIOR]}, str(folder / CONFIG))
    return _loaded(make_prior(saved.prior, encoder.model.config), folder, saved, encoder)


def load_decoder(folder: Path, encoder: Ranker) -> Decoder:
    """Return a folder's decoder, as `load_prior` does. Raises `UserError`."""
    folder, stored = _read(folder, DECODER)
    saved = build(SavedDecoder(), {DECODER: stored[DECODER]}, str(folder / CONFIG))
    return _loaded(make_decoder(saved.decoder, encoder.model.config), folder, saved, encoder)


def _read(folder: Path, kind: str) -> tuple[Path, dict[str, Any]]:
    folder = find_model(folder)
    stored = read_yaml(folder / CONFIG)
    if kind not in stored:
        raise UserError(f"{folder} is not a {kind}: its {CONFIG} says nothing of one")
    return folder, stored


def _loaded(model: Any, folder: Path, saved: Any, encoder: Ranker) -> Any:
    check_encoder(encoder, read_metadata(folder).get(ENCODER, ""), str(folder))
    load_into(model, read_weights(folder), folder)
    check_seal(folder, saved)
    return model.eval().requires_grad_(False)


def save_unclip(
    folder: Path, prior: Path, decoder: Path, encoder: Path, sampling: UnclipSampling
) -> None:
    """Put a prior and a decoder together into a folder that names their dual encoder.

    Raises `UserError` where they do not belong together.
    """
    ranker = load_dual_encoder(encoder)
    load_prior(prior, ranker)
    load_decoder(decoder, ranker)
    place = os.path.relpath(encoder.resolve(), folder.resolve())

    def contents(new: Path) -> None:
        shutil.copytree(prior, new / PRIOR)
        shutil.copytree(decoder, new / DECODER)
        text = to_yaml(SavedUnclip(place, sampling))
        (new / CONFIG).write_text(text, encoding="utf-8")

    write_folder(folder, contents)


def read_unclip(folder: Path) -> tuple[Path, UnclipSampling]:
    """Return the folder of a DALL-E 2's dual encoder, and its sampling. Raises `UserError`."""
    stored = read_yaml(folder / CONFIG)
    kept = {key: stored[key] for key in ("unclip", "sampling") if key in stored}
    saved = build(SavedUnclip(), kept, str(folder / CONFIG))
    return folder / saved.unclip, saved.sampling
