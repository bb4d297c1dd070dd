"""A dual encoder's folder, and what it is asked: features of pictures and of captions.

model.safetensors  config.yaml   the two towers
text.json                        the text encoding
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import torch
from omegaconf import OmegaConf
from PIL import Image
from torch import Tensor

from dalle.text import TEXT, TextTokenizer
from dual_encoder.model import DualEncoder, DualEncoderConfig
from dual_encoder.text import check_vocabulary, encode_captions
from training.checkpoint import CONFIG, load_into, read_weights, write_folder, write_model
from training.config import merge, read_yaml, to_yaml
from training.errors import UserError
from training.pictures import centre_square, to_array, to_tensor


@dataclass
class SavedDualEncoder:
    """What a dual encoder's config.yaml says."""

    dual_encoder: DualEncoderConfig = field(default_factory=DualEncoderConfig)
    """The model's config."""


class Ranker(NamedTuple):
    """A dual encoder with its text encoding: all that ranking, classifying and searching need."""

    model: DualEncoder
    text: TextTokenizer

    @torch.inference_mode()
    def image_features(self, pictures: Sequence[Image.Image], batch_size: int = 64) -> Tensor:
        """Features [N, E] of pictures of any size, each of length 1.

        The short side is resized (bicubic, as CLIP does) and the centre is cut out.
        """
        size = self.model.config.image_size
        parts = []
        for i in range(0, len(pictures), batch_size):
            squares = [
                centre_square(picture, size, Image.Resampling.BICUBIC)
                for picture in pictures[i : i + batch_size]
            ]
            images = to_tensor([to_array(square) for square in squares])
            parts.append(self.model.encode_image(images.to(self.model.logit_scale.device)).cpu())
        return torch.cat(parts) if parts else torch.empty(0, self.model.config.embed_dim)

    @torch.inference_mode()
    def text_features(self, captions: Sequence[str], batch_size: int = 256) -> Tensor:
        """Features [N, E] of captions, each of length 1. Raises `UserError` for an empty one."""
        device = self.model.logit_scale.device
        words = encode_captions(self.text, captions, self.model.config).to(device)
        return torch.cat([self.model.encode_text(part) for part in words.split(batch_size)]).cpu()


def save_dual_encoder(folder: Path, ranker: Ranker, dtype: torch.dtype = torch.bfloat16) -> None:
    """Write a dual encoder's folder, whole or not at all."""

    def contents(new: Path) -> None:
        config = to_yaml(SavedDualEncoder(ranker.model.config))
        write_model(new, ranker.model.state_dict(), config, dtype=dtype)
        ranker.text.save(new / TEXT)

    write_folder(folder, contents)


def is_dual_encoder(folder: Path) -> bool:
    """Whether a folder says that it holds a dual encoder."""
    return (folder / CONFIG).is_file() and "dual_encoder" in read_yaml(folder / CONFIG)


def load_dual_encoder(folder: Path) -> Ranker:
    """Return a folder's dual encoder in float32, in evaluation mode. Raises `UserError`."""
    weights = read_weights(folder)
    stored = read_yaml(folder / CONFIG)
    if not (folder / TEXT).exists() or "dual_encoder" not in stored:
        raise UserError(f"{folder} is not a dual encoder: it has no {TEXT} or another config")
    kept = OmegaConf.create({"dual_encoder": stored.dual_encoder})
    config: SavedDualEncoder = merge(SavedDualEncoder(), kept, source=str(folder / CONFIG))
    text = TextTokenizer.load(folder / TEXT)
    check_vocabulary(text, config.dual_encoder)
    model = DualEncoder(config.dual_encoder)
    load_into(model, weights, folder)
    return Ranker(model.eval().requires_grad_(False), text)
