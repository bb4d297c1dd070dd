"""The size of a dual encoder. The defaults are ViT-B/32 (CLIP, section 2.4)."""

from dataclasses import dataclass, field
from typing import Annotated

from dalle_base.common.bounds import Above0, Bounds, From0, Layers, Pixels, ShareBelow1, Width
from dalle_base.common.errors import UserError
from dalle_base.common.free import Free, Place
from dalle_base.common.size import LeastSize

FLOAT = 4
"""Bytes of a number."""
ACTIVATIONS = ("gelu", "quick_gelu")
"""Of the MLPs: exact, or the sigmoid approximation that OpenAI's weights were trained with."""
Channel = Annotated[float, Bounds(-1e6, 1e6)]
Spread = Annotated[float, Bounds(1e-6, 1e6)]
SAME_CAPTION = ("negative", "ignored", "shared")


@dataclass
class TowerConfig:
    """The size of one tower's transformer."""

    width: Width = 512
    """Width of the residual stream; the MLPs are four times as wide."""
    layers: Layers = 12
    """Blocks."""
    heads: Layers = 8
    """Attention heads; they share the width evenly."""

    def validate(self) -> None:
        """Raise `UserError` on impossible values."""
        if self.width % self.heads:
            raise UserError(
                f"a tower's heads={self.heads} does not divide its width={self.width}: "
                "write one that does"
            )


@dataclass
class DualEncoderConfig:
    """The size of a `DualEncoder`; the defaults are ViT-B/32."""

    embed_dim: Width = 512
    """Width of the space that images and captions share."""
    image_size: Pixels = 224
    """Side of the square images, in pixels."""
    patch_size: Pixels = 32
    """Side of a patch, in pixels; divides image_size."""
    vision: TowerConfig = field(default_factory=lambda: TowerConfig(768, 12, 12))
    """The image tower."""
    vocab_size: Annotated[int, Bounds(3, 2**24)] = 49408
    """Text tokens; the last two are the start and the end of a text."""
    text_length: Annotated[int, Bounds(3, 2**14)] = 77
    """Text positions, start and end included; longer captions are cut."""
    text: TowerConfig = field(default_factory=TowerConfig)
    """The text tower."""
    activation: str = "quick_gelu"
    """Of the MLPs: quick_gelu (OpenAI's weights) or gelu (most others)."""
    mean: list[Channel] = field(default_factory=lambda: [0.48145466, 0.4578275, 0.40821073])
    """Mean of the pixels' channels, which is taken off first."""
    std: list[Spread] = field(default_factory=lambda: [0.26862954, 0.26130258, 0.27577711])
    """Standard deviation of the channels, which they are then divided by."""
    dropout: ShareBelow1 = 0.0
    """Share of activations dropped in training, after each branch."""
    patch_dropout: ShareBelow1 = 0.0
    """Share of an image's patches left out in training (Li et al. 2022, arXiv 2212.00794)."""

    def least_size(self) -> LeastSize:
        """Return the model's least size."""
        patches = int((self.image_size // self.patch_size) ** 2 * (1 - self.patch_dropout))
        parameters = self.vocab_size * self.text.width
        activations = 3 * self.image_size**2
        for tower, positions in ((self.vision, patches), (self.text, self.text_length)):
            parameters += 12 * tower.layers * tower.width**2
            activations += tower.layers * tower.width * positions
        return LeastSize(parameters, activations, FLOAT * self.text_length**2)

    def validate(self) -> None:
        """Raise `UserError` for the first value, or pair of values, that makes no model."""
        if self.activation not in ACTIVATIONS:
            raise UserError(
                f"model.activation is {self.activation!r}; use one of {', '.join(ACTIVATIONS)}"
            )
        if self.image_size % self.patch_size:
            raise UserError(
                f"model.patch_size={self.patch_size} does not divide "
                f"model.image_size={self.image_size}: write one that does"
            )
        if len(self.mean) != 3 or len(self.std) != 3:
            raise UserError("model.mean and model.std need three numbers each")


@dataclass
class SpoiledConfig:
    """Wrong images of a caption, which its right ones must beat."""

    path: Annotated[str, Place("spoiled")] = ""
    """Parquet file with the columns image, caption and exact, such as `python -m
    experiments.spoiled` writes; empty: CLIP."""
    weight: Above0 = 1.0
    """Weight of this loss beside the contrastive one."""
    groups: Annotated[int, Bounds(1, 2**20)] = 32
    """Captions with a right and a wrong image in each update (of each process)."""
    wrong: Annotated[int, Bounds(1, 1024)] = 4
    """Most wrong images of a caption in an update."""
    held_out_share: Annotated[float, Bounds(0, 1, above=True, below=True)] = 0.1
    """Share of these captions to measure on."""


@dataclass
class LossConfig:
    """The contrastive loss."""

    chunk: Free[From0] = 0
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
        if self.same_caption not in SAME_CAPTION:
            raise UserError(
                f"loss.same_caption is {self.same_caption!r}; use one of {', '.join(SAME_CAPTION)}"
            )
        if any(len(words) < 2 for words in self.confusable):
            raise UserError("loss.confusable: each list needs two words or more to exchange")
