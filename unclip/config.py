"""Sizes, noise and sampling of the prior and the decoder. Needs no torch."""

from dataclasses import dataclass, field
from typing import Annotated

from dalle_base.common.bounds import Bounds, Layers, Pixels, ShareBelow1, Weight, Width
from dalle_base.common.errors import UserError
from dalle_base.common.size import LeastSize

PREDICTIONS = ("sample", "epsilon", "v_prediction")
ADDITIONAL = 4
"""The prior's tokens behind the text: its embedding, the step, the noised embedding, the query."""
SCHEDULES = {"cosine": "squaredcos_cap_v2", "linear": "linear"}
"""Noise schedules: our names, and those of diffusers."""
VARIANCES = ("fixed", "learned")
Steps = Annotated[int, Bounds(2, 10_000)]


@dataclass
class NoiseConfig:
    """How noise is added, and what of it a network predicts."""

    steps: Steps = 1000
    """Steps from data to noise."""
    schedule: str = "cosine"
    """cosine (the paper's, table 3) or linear."""
    prediction: str = "epsilon"
    """What the network predicts: the noise (epsilon, the decoder's), what is without it (sample,
    the prior's, section 2.2), or v_prediction (arXiv 2202.00512)."""
    variance: str = "fixed"
    """Of a step backwards: fixed, or learned (the paper's decoder), which takes as many further
    outputs."""
    bound_weight: Weight = 0.001
    """Weight of the variational bound, by which a learned variance learns (arXiv 2102.09672)."""

    def validate(self) -> None:
        """Raise `UserError` on an unknown name."""
        for name, known in (
            ("schedule", tuple(SCHEDULES)),
            ("prediction", PREDICTIONS),
            ("variance", VARIANCES),
        ):
            if getattr(self, name) not in known:
                raise UserError(
                    f"noise.{name} is {getattr(self, name)!r}; use one of {', '.join(known)}"
                )


@dataclass
class PriorConfig:
    """The prior: a causal transformer from a caption to an image embedding (section 2.2)."""

    layers: Layers = 24
    """Blocks; 24 in the paper."""
    heads: Layers = 32
    """Attention heads."""
    head_width: Width = 64
    """Width of a head; their sum is the width of the transformer."""
    dropout: ShareBelow1 = 0.0
    """Share of activations dropped in training."""
    noise: NoiseConfig = field(default_factory=lambda: NoiseConfig(prediction="sample"))
    """Its diffusion."""

    def least_size(self) -> LeastSize:
        """Return the model's least size; texts, whose length is the dual encoder's, not counted."""
        width = self.heads * self.head_width
        return LeastSize(12 * self.layers * width**2, ADDITIONAL * self.layers * width)

    def validate(self) -> None:
        """Raise `UserError` on impossible values."""
        if self.noise.variance != "fixed":
            raise UserError("the prior predicts an embedding alone: model.noise.variance=fixed")


@dataclass
class DecoderConfig:
    """The decoder: a U-Net from an image embedding to an image (section 2.1)."""

    image_size: Pixels = 64
    """Side of the square images, in pixels; the paper enlarges them twice afterwards."""
    patch: Annotated[int, Bounds(1, 64)] = 1
    """Side of the squares of pixels that become one position of more channels: 1, the paper's, or
    2 for a quarter of the computation."""
    channels: list[Width] = field(default_factory=lambda: [512, 1024, 1536, 2048])
    """Channels of each level; between two levels the grid is halved."""
    blocks: Layers = 3
    """Residual blocks a level."""
    attention: list[Annotated[int, Bounds(0, 64)]] = field(default_factory=lambda: [1, 2, 3])
    """Levels with attention over the grid and to the context, from 0."""
    head_width: Width = 64
    """Width of an attention head."""
    context_width: Width = 1024
    """Width of the context: of the embedding's and the caption's tokens."""
    image_tokens: Annotated[int, Bounds(1, 256)] = 4
    """Tokens that the image embedding becomes, beside being added to the time's."""
    norm_groups: Annotated[int, Bounds(1, 1024)] = 32
    """Groups of the normalisation; they divide all channels."""
    dropout: ShareBelow1 = 0.0
    """Share of activations dropped in training."""
    noise: NoiseConfig = field(default_factory=lambda: NoiseConfig(variance="learned"))
    """Its diffusion."""

    def least_size(self) -> LeastSize:
        """Return the model's least size: of residual blocks, which have two convolutions of 3x3."""
        down_and_up = 2 * self.blocks + 1
        parameters, activations = 36.0 * self.channels[-1] ** 2, 0.0
        for level, width in enumerate(self.channels):
            positions = (self.image_size / self.patch / 2**level) ** 2
            # The first block each way has another level's width in front.
            parameters += (18 * down_and_up - 18) * width**2
            activations += down_and_up * width * positions
        return LeastSize(parameters, activations)

    def validate(self) -> None:
        """Raise `UserError` on impossible values."""
        levels = len(self.channels)
        if not 1 <= levels <= 8:
            raise UserError(f"model.channels has {levels} levels: write 1 to 8")
        side = self.patch * 2 ** (levels - 1)
        if self.image_size % side:
            raise UserError(
                f"model.image_size={self.image_size} does not divide by {side}, model.patch times "
                "2 for each level but the first: change one of them"
            )
        if bad := [level for level in self.attention if level >= levels]:
            raise UserError(
                f"model.attention names level {bad[0]}; the levels are 0 to {levels - 1}"
            )
        for width in self.channels:
            if width % self.norm_groups:
                raise UserError(
                    f"model.norm_groups={self.norm_groups} does not divide {width} channels"
                )
            if width % self.head_width:
                raise UserError(
                    f"model.head_width={self.head_width} does not divide {width} channels"
                )


@dataclass(frozen=True)
class UnclipSampling:
    """How images are sampled."""

    prior_steps: Annotated[int, Bounds(1, 1000)] = 64
    """Steps of the prior; 64 in the paper."""
    prior_guidance: Weight = 1.0
    """Classifier-free guidance of the prior; 1: none, as more looked worse in the paper."""
    embeddings: Annotated[int, Bounds(1, 64)] = 2
    """Embeddings that the prior draws, of which the nearest to the caption's is kept; 2 in the
    paper (section 2.2)."""
    steps: Annotated[int, Bounds(1, 1000)] = 50
    """Steps of the decoder; 250 in the paper, with learned variances."""
    guidance_scale: Weight = 1.25
    """Classifier-free guidance of the decoder; 1: none."""
    eta: Annotated[float, Bounds(0, 1)] = 0.0
    """Noise of the decoder's steps: 0 is DDIM (arXiv 2010.02502), 1 as much as DDPM's."""
    read_text: bool = True
    """Whether the decoder reads the caption as well."""
