"""The size of a dual encoder. The defaults are ViT-B/32 (CLIP, section 2.4)."""

import math
from dataclasses import dataclass, field

from dalle_base.common.errors import UserError

ACTIVATIONS = ("gelu", "quick_gelu")
"""Of the MLPs: exact, or the sigmoid approximation that OpenAI's weights were trained with."""
SAME_CAPTION = ("negative", "ignored", "shared")


@dataclass
class TowerConfig:
    """The size of one tower's transformer."""

    width: int = 512
    """Width of the residual stream; the MLPs are four times as wide."""
    layers: int = 12
    """Blocks."""
    heads: int = 8
    """Attention heads; they share the width evenly."""

    def validate(self) -> None:
        """Raise `UserError` on impossible values."""
        if min(self.width, self.layers, self.heads) < 1:
            raise UserError("a tower's width, layers and heads must be at least 1")
        if self.width % self.heads:
            raise UserError(
                f"a tower's heads={self.heads} does not divide its width={self.width}: "
                "write one that does"
            )


@dataclass
class DualEncoderConfig:
    """The size of a `DualEncoder`; the defaults are ViT-B/32."""

    embed_dim: int = 512
    """Width of the space that images and captions share."""
    image_size: int = 224
    """Side of the square images, in pixels."""
    patch_size: int = 32
    """Side of a patch, in pixels; divides image_size."""
    vision: TowerConfig = field(default_factory=lambda: TowerConfig(768, 12, 12))
    """The image tower."""
    vocab_size: int = 49408
    """Text tokens; the last two are the start and the end of a text."""
    text_length: int = 77
    """Text positions, start and end included; longer captions are cut."""
    text: TowerConfig = field(default_factory=TowerConfig)
    """The text tower."""
    activation: str = "quick_gelu"
    """Of the MLPs: quick_gelu (OpenAI's weights) or gelu (most others)."""
    mean: list[float] = field(default_factory=lambda: [0.48145466, 0.4578275, 0.40821073])
    """Mean of the pixels' channels, which is taken off first."""
    std: list[float] = field(default_factory=lambda: [0.26862954, 0.26130258, 0.27577711])
    """Standard deviation of the channels, which they are then divided by."""
    dropout: float = 0.0
    """Share of activations dropped in training, after each branch."""
    patch_dropout: float = 0.0
    """Share of an image's patches left out in training (Li et al. 2022, arXiv 2212.00794)."""

    def validate(self) -> None:
        """Raise `UserError` for the first value, or pair of values, that makes no model."""
        self.vision.validate()
        self.text.validate()
        if self.activation not in ACTIVATIONS:
            raise UserError(
                f"model.activation is {self.activation!r}; use one of {', '.join(ACTIVATIONS)}"
            )
        if min(self.embed_dim, self.image_size, self.patch_size) < 1:
            raise UserError("model.embed_dim, image_size and patch_size must be at least 1")
        if self.image_size % self.patch_size:
            raise UserError(
                f"model.patch_size={self.patch_size} does not divide "
                f"model.image_size={self.image_size}: write one that does"
            )
        if self.text_length < 3 or self.vocab_size < 3:
            raise UserError(
                "model.text_length and model.vocab_size must be at least 3: start, end and a token"
            )
        if len(self.mean) != 3 or len(self.std) != 3 or min(self.std) <= 0:
            raise UserError("model.mean and model.std need three numbers each, std above 0")
        for name in ("dropout", "patch_dropout"):
            if not 0 <= getattr(self, name) < 1:
                raise UserError(f"model.{name} must be a share from 0 up to below 1")


@dataclass
class SpoiledConfig:
    """Wrong images of a caption, which its right ones must beat."""

    path: str = ""
    """Parquet file with the columns image, caption and exact, such as `python -m
    experiments.spoiled` writes; empty: CLIP."""
    weight: float = 1.0
    """Weight of this loss beside the contrastive one."""
    groups: int = 32
    """Captions with a right and a wrong image in each update (of each process)."""
    wrong: int = 4
    """Most wrong images of a caption in an update."""
    held_out_share: float = 0.1
    """Share of these captions to measure on."""

    def validate(self) -> None:
        """Raise `UserError` on impossible values."""
        if not (self.weight > 0 and math.isfinite(self.weight)):
            raise UserError("loss.spoiled.weight must be above 0 (an empty path: none of it)")
        for name in ("groups", "wrong"):
            if getattr(self, name) < 1:
                raise UserError(f"loss.spoiled.{name} must be at least 1")
        if not 0 < self.held_out_share < 1:
            raise UserError("loss.spoiled.held_out_share must be above 0 and below 1")


@dataclass
class LossConfig:
    """The contrastive loss."""

    chunk: int = 0
    """Rows of similarities held at a time (0: all); the loss is the same, its memory smaller."""
    same_caption: str = "negative"
    """Other pairs of one caption in a batch: negative (CLIP), ignored, or shared (targets spread
    evenly over them)."""
    confusable: list[list[str]] = field(default_factory=list)
    """Lists of words that make a caption wrong in one another's place, "cyan|turquoise" for words
    that mean the same. Each image then also has its caption with a word exchanged as a negative
    (Yuksekgonul et al. 2022, arXiv 2210.01936); empty: CLIP."""
    spoiled: SpoiledConfig = field(default_factory=SpoiledConfig)
    """Wrong images as negatives of their caption."""

    def validate(self) -> None:
        """Raise `UserError` on impossible values."""
        self.spoiled.validate()
        if self.chunk < 0:
            raise UserError("loss.chunk must be at least 0")
        if self.same_caption not in SAME_CAPTION:
            raise UserError(
                f"loss.same_caption is {self.same_caption!r}; use one of {', '.join(SAME_CAPTION)}"
            )
        if any(len(words) < 2 for words in self.confusable):
            raise UserError("loss.confusable: each list needs two words or more to exchange")
