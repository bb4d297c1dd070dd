"""The options of the dVAE: sizes, networks, loss. Every default is the paper's."""

from dataclasses import dataclass, field
from typing import Annotated

from dalle_base.common.bounds import (
    Above0,
    Bounds,
    CodebookSize,
    From0,
    GridSide,
    Layers,
    Pixels,
    Weight,
    Width,
)
from dalle_base.common.errors import UserError
from dalle_base.common.size import LeastSize
from dvae.image_losses_config import AdversarialConfig, PerceptualConfig

SCALES = ("learned", "constant", "image")
LIKELIHOODS = ("logit_laplace", "gaussian")
NORMS = ("none", "group")


@dataclass
class NetworkConfig:
    """Size and form of the dVAE's two networks."""

    width: Width = 256
    """Channels of the first encoder group; each further group doubles them."""
    groups: Annotated[int, Bounds(1, 12)] = 4
    """Groups of residual blocks; the image is halved between two groups."""
    blocks: Layers = 2
    """Residual blocks in each group."""
    bottleneck: Width = 4
    """A block's inner convolutions have this many times fewer channels than the block."""
    decoder_init: Width = 128
    """Channels to which the decoder first projects the codebook vectors."""
    stem_stride: Annotated[int, Bounds(1, 4)] = 1
    """Stride of the encoder's first convolution; the decoder ends with a pixel shuffle to match."""
    norm: str = "none"
    """Normalisation at the start of each block: none (the paper) or group (GroupNorm)."""
    norm_groups: Width = 32
    """Groups of the group normalisation, fewer where channels do not divide."""
    attention: bool = False
    """Add a self-attention layer over the grid beside the coarsest group (not in the paper)."""
    decoder_blocks: list[Layers] = field(default_factory=list)
    """Residual blocks in each of the decoder's groups, coarsest first; empty: as `blocks` says."""

    def validate(self) -> None:
        """Raise `UserError` on values that no network can be built from."""
        counts = self.decoder_blocks
        if counts and len(counts) != self.groups:
            raise UserError(
                f"model.network.decoder_blocks is {counts}: write {self.groups} numbers, one for "
                "each of model.network.groups, or none"
            )
        if self.stem_stride not in (1, 2, 4):
            raise UserError(f"model.network.stem_stride is {self.stem_stride}; use 1, 2 or 4")
        if self.norm not in NORMS:
            raise UserError(f"model.network.norm is {self.norm!r}; use one of {', '.join(NORMS)}")
        if self.width % self.bottleneck:
            raise UserError("model.network.width must be a multiple of model.network.bottleneck")

    @property
    def downsampling(self) -> int:
        """Pixels on a side of the patch that one code stands for."""
        return self.stem_stride * 2 ** (self.groups - 1)

    @property
    def layers(self) -> int:
        """Residual blocks in one network: what the paper scales each residual branch by."""
        return self.groups * self.blocks


@dataclass
class ObjectiveConfig:
    """The dVAE's loss. The defaults are the paper's; docs/experiments.md measures the rest."""

    kl_weight: Weight = 6.6
    """Final weight β of the KL to the uniform prior."""
    kl_updates: From0 = 5000
    """Updates over which β rises from 0, cosine."""
    temperature_start: Above0 = 1.0
    """Gumbel-softmax temperature τ at the start."""
    temperature_end: Above0 = 1 / 16
    """Gumbel-softmax temperature τ at the end of its schedule."""
    temperature_updates: From0 = 150_000
    """Updates over which τ falls, cosine."""
    likelihood: str = "logit_laplace"
    """Likelihood of pixel values: logit_laplace (the paper) or gaussian (squared error)."""
    scale: str = "learned"
    """The likelihood's scale b: learned (the decoder's ln b, the paper), constant, or image (the
    most likely one for each image as it is reconstructed: Rybkin et al. 2021, section 4.2)."""
    constant_ln_b: Annotated[float, Bounds(-30, 30)] = -1.0
    """ln b where the scale is constant."""
    scale_learned_after: From0 = 0
    """With a learned scale: updates during which ln b stays constant first."""
    beta_nll: Weight = 0.0
    """Weight each pixel's likelihood by b to this power, detached (beta-NLL); 0 is the paper."""
    entropy_weight: Weight = 0.0
    """Weight of the negative entropy (nats) of the batch-marginal code distribution."""
    confidence_weight: Weight = 0.0
    """Weight of the mean entropy (nats) of the positions' posteriors: makes codes less noisy."""
    straight_through: bool = False
    """Decode one-hot samples in the forward pass, with the soft sample's gradient."""
    decoder_only: bool = False
    """Train the decoder alone, on the hard codes that decoding will see, without relaxation."""
    logit_scale: Above0 = 1.0
    """Factor on the encoder's logits, so that Gumbel noise does not drown them at the start."""
    likelihood_weight: Weight = 1.0
    """Weight of the likelihood; 0 leaves the pixels to l1_weight."""
    l1_weight: Weight = 0.0
    """Weight of the mean absolute error of pixel values in [0, 1]."""
    perceptual: PerceptualConfig = field(default_factory=PerceptualConfig)
    """Distance of a frozen network's activations, added to the loss; off by default."""
    adversarial: AdversarialConfig = field(default_factory=AdversarialConfig)
    """A discriminator's judgement, added to the loss; off by default."""

    def validate(self) -> None:
        """Raise `UserError` on impossible values."""
        if self.scale == "picture":  # as it was called once
            self.scale = "image"
        if self.scale not in SCALES:
            raise UserError(
                f"model.objective.scale is {self.scale!r}; use one of {', '.join(SCALES)}"
            )
        if self.likelihood not in LIKELIHOODS:
            raise UserError(
                f"model.objective.likelihood is {self.likelihood!r}; use one of "
                f"{', '.join(LIKELIHOODS)}"
            )


@dataclass
class DVAEConfig:
    """The dVAE: image, grid, codebook, networks, loss."""

    image_size: Pixels = 256
    """Side of the square images, in pixels."""
    grid: GridSide = 32
    """Side of the square grid of codes; must be image_size over the networks' downsampling."""
    codebook_size: CodebookSize = 8192
    """Number of codes K."""
    network: NetworkConfig = field(default_factory=NetworkConfig)
    """Encoder and decoder."""
    objective: ObjectiveConfig = field(default_factory=ObjectiveConfig)
    """Loss and its schedules."""

    def least_size(self) -> LeastSize:
        """Return the model's least size."""
        network, codes = self.network, self.codebook_size
        # Of an encoder that does not learn, neither gradients nor activations are kept.
        encoder = 0 if self.objective.decoder_only else network.blocks
        decoder = network.decoder_blocks[::-1] or [network.blocks] * network.groups
        parameters, activations = codes * network.decoder_init, codes * self.grid**2
        for group in range(network.groups):
            channels = network.width * 2**group
            inner = channels // network.bottleneck
            side = self.image_size // network.stem_stride // 2**group
            parameters += (encoder + decoder[group]) * (10 * channels * inner + 18 * inner**2)
            activations += (encoder + decoder[group]) * channels * side**2
        return LeastSize(parameters, activations)

    def validate(self) -> None:
        """Raise `UserError` on a combination that cannot be built."""
        if self.grid * self.network.downsampling != self.image_size:
            raise UserError(
                f"model.grid={self.grid} does not fit: images of {self.image_size} pixels "
                f"downsampled {self.network.downsampling} times need model.image_size="
                f"{self.grid * self.network.downsampling}, or change model.network.groups"
            )
