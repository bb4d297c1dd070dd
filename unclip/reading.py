"""What the frozen dual encoder makes of images and captions, as prior and decoder read it."""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from dalle_base.common.checkpoint import fingerprint
from dalle_base.common.errors import UserError
from dalle_base.data.text import PADDING
from dual_encoder.ranker import Ranker
from dual_encoder.text import encode_captions


@dataclass
class Caption:
    """B captions as the text tower reads them."""

    embedding: Tensor
    """[B, E], `scaled`: a value's root mean square is 1."""
    states: Tensor
    """[B, T, width] of each position."""
    mask: Tensor
    """bool [B, T]: which positions have a token."""

    def __len__(self) -> int:
        return len(self.embedding)

    def part(self, which: slice) -> "Caption":
        """Return some of the captions."""
        return Caption(self.embedding[which], self.states[which], self.mask[which])

    def repeat(self, times: int) -> "Caption":
        """Return each caption so many times, side by side."""
        parts = (self.embedding, self.states, self.mask)
        return Caption(*(part.repeat_interleave(times, dim=0) for part in parts))

    def twice(self) -> "Caption":
        """Return all captions, and all of them once more."""
        parts = (self.embedding, self.states, self.mask)
        return Caption(*(torch.cat([part, part]) for part in parts))


def scaled(features: Tensor) -> Tensor:
    """Return features of length 1, [B, E], times √E, which diffusion needs: noise has variance 1
    in each value as well (crowsonkb, in lucidrains/DALLE2-pytorch #60).
    """
    return features * features.shape[-1] ** 0.5


def unscaled(embedding: Tensor) -> Tensor:
    """Return an embedding [B, E] as features of length 1."""
    return F.normalize(embedding, dim=-1)


@torch.no_grad()
def embed_images(encoder: Ranker, images: Tensor) -> Tensor:
    """Return the embeddings [B, E] of images [B, 3, H, W] in [0, 1], resized to the encoder's size.

    Raises `UserError` for one that is not finite.
    """
    size = encoder.model.config.image_size
    if images.shape[2:] != (size, size):
        images = F.interpolate(images, (size, size), mode="bicubic", antialias=True).clamp(0, 1)
    embedding = scaled(encoder.model.encode_image(images))
    if not embedding.isfinite().all():
        raise UserError("an image's embedding is not finite: the dual encoder is damaged")
    return embedding


@torch.no_grad()
def read_tokens(encoder: Ranker, tokens: Tensor) -> Caption:
    """Return captions given as the text tower's tokens [B, T]."""
    features, states = encoder.model.read_text(tokens)
    return Caption(scaled(features), states, tokens != PADDING)


def read_captions(encoder: Ranker, captions: list[str]) -> Caption:
    """Return captions as prior and decoder read them. Raises `UserError` for an empty one."""
    tokens = encode_captions(encoder.text_tokenizer, captions, encoder.model.config)
    return read_tokens(encoder, tokens.to(encoder.device))


def encoder_fingerprint(encoder: Ranker) -> str:
    """Return what a prior and a decoder know their dual encoder by."""
    return fingerprint(encoder.model.state_dict())


def check_encoder(encoder: Ranker, known: str, name: str) -> None:
    """Raise `UserError` unless the dual encoder is the one that a model was trained over."""
    if known and known != encoder_fingerprint(encoder):
        raise UserError(
            f"{name} was trained over another dual encoder than this one: name that one's folder"
        )
