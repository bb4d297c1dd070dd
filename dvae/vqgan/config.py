"""The options of a VQGAN: sizes, networks, quantiser, loss. The defaults are those of taming."""

from dataclasses import dataclass, field
from typing import Annotated, Any

from dalle_base.common.bounds import (
    Bounds,
    CodebookSize,
    GridSide,
    Layers,
    Pixels,
    ShareBelow1,
    Weight,
    Width,
)
from dalle_base.common.errors import UserError
from dalle_base.common.size import LeastSize
from dvae.image_losses_config import AdversarialConfig, PerceptualConfig
from dvae.vqgan.quantisers import QUANTISERS

NORMS = ("group", "pixel")
MOST_LEVELS = 12
Multiplier = Annotated[int, Bounds(1, 1024)]
PIXEL_LOSSES = ("l1", "l2")


@dataclass
class SideConfig:
    """What the encoder and the decoder may have each in its own way."""

    attention: bool = True
    """Single-head attention in the middle, and at the levels in network.attention_levels."""
    norm: str = "group"
    """Normalisation before each convolution: group (over groups of channels and the whole grid), or
    pixel (root mean square over the channels of each position alone)."""
    blocks: Annotated[int, Bounds(0, 1024)] = 0
    """Residual blocks at each level; 0: as network.blocks says, and one more in the decoder."""
    kernels: list[Annotated[int, Bounds(1, 63)]] = field(default_factory=list)
    """Kernel of the residual blocks at each level, finest first, the last one also of the middle
    and of the convolution to or from the grid; empty: 3 everywhere."""

    def check(self, where: str, levels: int) -> None:
        """Raise `UserError` that begins with `where` on values that no network is built from."""
        if self.norm not in NORMS:
            raise UserError(f"{where}.norm is {self.norm!r}; use one of {', '.join(NORMS)}")
        if self.kernels and len(self.kernels) != levels:
            raise UserError(
                f"{where}.kernels is {self.kernels}: write {levels} numbers, one for each of "
                "model.network.multipliers, or none"
            )
        if any(kernel % 2 == 0 for kernel in self.kernels):
            raise UserError(f"{where}.kernels is {self.kernels}; write odd numbers, such as 3")


@dataclass
class NetworkConfig:
    """Size and form of the two networks, in taming's words (its own names in brackets)."""

    width: Width = 128
    """Channels of the finest level (ch)."""
    multipliers: list[Multiplier] = field(default_factory=lambda: [1, 1, 2, 2, 4])
    """Channels of each level over `width`, finest first (ch_mult); the image is halved between two
    levels."""
    blocks: Layers = 2
    """Residual blocks at each level, in the decoder one more (num_res_blocks)."""
    attention_levels: list[Annotated[int, Bounds(0, 11)]] = field(default_factory=lambda: [4])
    """Levels with attention after each block, counted from 0, the finest (attn_resolutions)."""
    z_channels: Width = 256
    """Channels that the encoder ends with and the decoder starts from (z_channels)."""
    code_width: Width = 256
    """Values of a code's vector (embed_dim), unless the quantiser has a width of its own."""
    dropout: ShareBelow1 = 0.0
    """Dropout in residual blocks."""
    norm_groups: Width = 32
    """Groups of the group normalisation, fewer where channels do not divide."""
    stem_stride: Annotated[int, Bounds(1, 4)] = 1
    """Side of the patches of pixels that the encoder's first convolution reads as one position, and
    the decoder's last one writes (not in taming)."""
    encoder: SideConfig = field(default_factory=SideConfig)
    """The encoder's own options: without attention and with norm=pixel, codes are local."""
    decoder: SideConfig = field(default_factory=SideConfig)
    """The decoder's own options."""

    def validate(self) -> None:
        """Raise `UserError` on values that no networks can be built from."""
        if not 1 <= len(self.multipliers) <= MOST_LEVELS:
            raise UserError(
                f"model.network.multipliers is {self.multipliers}: write a number for each level, "
                f"of 1 to {MOST_LEVELS} levels"
            )
        levels = len(self.multipliers)
        if any(not 0 <= level < levels for level in self.attention_levels):
            raise UserError(
                f"model.network.attention_levels is {self.attention_levels}; the levels are 0 to "
                f"{levels - 1}, one for each of model.network.multipliers"
            )
        if self.stem_stride not in (1, 2, 4):
            raise UserError(f"model.network.stem_stride is {self.stem_stride}; use 1, 2 or 4")
        self.encoder.check("model.network.encoder", levels)
        self.decoder.check("model.network.decoder", levels)

    @property
    def downsampling(self) -> int:
        """Pixels on a side of the patch that one code stands for."""
        return self.stem_stride * 2 ** (len(self.multipliers) - 1)

    @property
    def field_of_view(self) -> int | None:
        """Pixels on a side of the square that a code depends on; None where it is all of the
        image (attention, or a normalisation over the grid).
        """
        side = self.encoder
        if side.attention or side.norm != "pixel":
            return None
        jump = self.stem_stride  # pixels between two neighbours at the level
        kernels = side.kernels or [3] * len(self.multipliers)
        blocks = side.blocks or self.blocks
        seen = jump + 2 * jump  # the first convolution
        for level, kernel in enumerate(kernels):
            if level:
                seen, jump = seen + 2 * jump, 2 * jump
            seen += 2 * blocks * (kernel - 1) * jump
        return seen + 5 * (kernels[-1] - 1) * jump  # two blocks and the last convolution


@dataclass
class ObjectiveConfig:
    """A VQGAN's loss: pixels, codes, and what sees more than pixels."""

    pixel_loss: str = "l1"
    """Loss of pixel values in [0, 1]: l1 (mean absolute error) or l2 (mean squared error)."""
    pixel_weight: Weight = 2.0
    """Its weight. In taming it is 1, of values in [-1, 1]: the same, for l1."""
    commitment: Weight = 0.25
    """Weight β of the distance that pulls the encoder's vectors to their codes."""
    codebook_weight: Weight = 1.0
    """Weight of the same distance where it pulls codes to the encoder's vectors."""
    perceptual: PerceptualConfig = field(default_factory=PerceptualConfig)
    """Loss of a frozen network's features."""
    adversarial: AdversarialConfig = field(default_factory=AdversarialConfig)
    """Loss of a discriminator that is trained beside the tokenizer."""
    decoder_only: bool = False
    """Train the decoder alone: the codes of images stay as they are."""

    def validate(self) -> None:
        """Raise `UserError` on impossible values."""
        if self.pixel_loss not in PIXEL_LOSSES:
            raise UserError(
                f"model.objective.pixel_loss is {self.pixel_loss!r}; use one of "
                f"{', '.join(PIXEL_LOSSES)}"
            )


@dataclass
class VQGANConfig:
    """A VQGAN: image, grid, codebook, networks, quantiser, loss."""

    image_size: Pixels = 256
    """Side of the square images, in pixels."""
    grid: GridSide = 16
    """Side of the square grid of codes; must be image_size over the networks' downsampling."""
    codebook_size: CodebookSize = 1024
    """Number of codes K."""
    quantiser: str = "vq"
    """How vectors become codes: vq, ema, cosine, fsq, gumbel."""
    quantiser_options: dict[str, Any] = field(default_factory=dict)
    """Options of quantisers by their names, such as {fsq: {levels: [8, 5, 5, 5]}}; those of other
    quantisers than the chosen one do not count."""
    network: NetworkConfig = field(default_factory=NetworkConfig)
    """Encoder and decoder."""
    objective: ObjectiveConfig = field(default_factory=ObjectiveConfig)
    """Loss."""

    def least_size(self) -> LeastSize:
        """Return the model's least size."""
        network = self.network
        parameters = activations = 0
        for side, more in ((network.encoder, 0), (network.decoder, 1)):
            blocks = side.blocks or network.blocks + more
            if side is network.encoder and self.objective.decoder_only:
                continue  # neither gradients nor activations are kept
            for level, multiplier in enumerate(network.multipliers):
                channels = network.width * multiplier
                kernel = side.kernels[level] if side.kernels else 3
                pixels = (self.image_size // network.stem_stride // 2**level) ** 2
                # The first block may start from the channels of the level before, which are fewer.
                parameters += (2 * blocks - 1) * (kernel * channels) ** 2
                activations += 2 * blocks * channels * pixels
            middle = network.width * network.multipliers[-1]
            parameters += 4 * ((side.kernels or [3])[-1] * middle) ** 2
        return LeastSize(parameters, activations)

    def validate(self) -> None:
        """Raise `UserError` on a combination that cannot be built."""
        QUANTISERS.check("model.quantiser", self.quantiser)
        for name in self.quantiser_options:
            QUANTISERS.check("a key of model.quantiser_options", name)
        if self.grid * self.network.downsampling != self.image_size:
            raise UserError(
                f"model.grid={self.grid} does not fit: images of {self.image_size} pixels "
                f"downsampled {self.network.downsampling} times need model.image_size="
                f"{self.grid * self.network.downsampling}, or change model.network.multipliers"
            )
