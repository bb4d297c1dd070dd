"""The options of the dVAE: sizes, networks, loss. Every default is the paper's."""

from dataclasses import dataclass, field

from dalle_base.common.errors import UserError
from dvae.image_losses_config import AdversarialConfig, PerceptualConfig

SCALES = ("learned", "constant", "image")
LIKELIHOODS = ("logit_laplace", "gaussian")
NORMS = ("none", "group")


@dataclass
class NetworkConfig:
    """Size and form of the dVAE's two networks."""

    width: int = 256
    """Channels of the first encoder group; each further group doubles them."""
    groups: int = 4
    """Groups of residual blocks; the image is halved between two groups."""
    blocks: int = 2
    """Residual blocks in each group."""
    bottleneck: int = 4
    """A block's inner convolutions have this many times fewer channels than the block."""
    decoder_init: int = 128
    """Channels to which the decoder first projects the codebook vectors."""
    stem_stride: int = 1
    """Stride of the encoder's first convolution; the decoder ends with a pixel shuffle to match."""
    norm: str = "none"
    """Normalisation at the start of each block: none (the paper) or group (GroupNorm)."""
    norm_groups: int = 32
    """Groups of the group normalisation, fewer where channels do not divide."""
    attention: bool = False
    """Add a self-attention layer over the grid beside the coarsest group (not in the paper)."""
    decoder_blocks: list[int] = field(default_factory=list)
    """Residual blocks in each of the decoder's groups, coarsest first; empty: as `blocks` says."""

    def validate(self) -> None:
        """Raise `UserError` on values that no network can be built from."""
        for name in ("width", "groups", "blocks", "bottleneck", "decoder_init", "norm_groups"):
            if getattr(self, name) < 1:
                raise UserError(f"model.network.{name} must be at least 1")
        counts = self.decoder_blocks
        if counts and (len(counts) != self.groups or min(counts) < 1):
            raise UserError(
                f"model.network.decoder_blocks is {counts}: write {self.groups} numbers of at "
                "least 1, one for each of model.network.groups, or none"
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

    kl_weight: float = 6.6
    """Final weight β of the KL to the uniform prior."""
    kl_updates: int = 5000
    """Updates over which β rises from 0, cosine."""
    temperature_start: float = 1.0
    """Gumbel-softmax temperature τ at the start."""
    temperature_end: float = 1 / 16
    """Gumbel-softmax temperature τ at the end of its schedule."""
    temperature_updates: int = 150_000
    """Updates over which τ falls, cosine."""
    likelihood: str = "logit_laplace"
    """Likelihood of pixel values: logit_laplace (the paper) or gaussian (squared error)."""
    scale: str = "learned"
    """The likelihood's scale b: learned (the decoder's ln b, the paper), constant, or image (the
    most likely one for each image as it is reconstructed: Rybkin et al. 2021, section 4.2)."""
    constant_ln_b: float = -1.0
    """ln b where the scale is constant."""
    scale_learned_after: int = 0
    """With a learned scale: updates during which ln b stays constant first."""
    beta_nll: float = 0.0
    """Weight each pixel's likelihood by b to this power, detached (beta-NLL); 0 is the paper."""
    entropy_weight: float = 0.0
    """Weight of the negative entropy (nats) of the batch-marginal code distribution."""
    confidence_weight: float = 0.0
    """Weight of the mean entropy (nats) of the positions' posteriors: makes codes less noisy."""
    straight_through: bool = False
    """Decode one-hot samples in the forward pass, with the soft sample's gradient."""
    decoder_only: bool = False
    """Train the decoder alone, on the hard codes that decoding will see, without relaxation."""
    logit_scale: float = 1.0
    """Factor on the encoder's logits, so that Gumbel noise does not drown them at the start."""
    likelihood_weight: float = 1.0
    """Weight of the likelihood; 0 leaves the pixels to l1_weight."""
    l1_weight: float = 0.0
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
        if min(self.temperature_start, self.temperature_end) <= 0:
            raise UserError("model.objective.temperature_start and _end must be above 0")
        for name in ("kl_updates", "temperature_updates", "scale_learned_after"):
            if getattr(self, name) < 0:
                raise UserError(f"model.objective.{name} counts updates: 0 or more")
        for name in ("likelihood_weight", "l1_weight"):
            if getattr(self, name) < 0:
                raise UserError(f"model.objective.{name} is {getattr(self, name)}: 0 or more")
        self.perceptual.validate()
        self.adversarial.validate()


@dataclass
class DVAEConfig:
    """The dVAE: image, grid, codebook, networks, loss."""

    image_size: int = 256
    """Side of the square images, in pixels."""
    grid: int = 32
    """Side of the square grid of codes; must be image_size over the networks' downsampling."""
    codebook_size: int = 8192
    """Number of codes K."""
    network: NetworkConfig = field(default_factory=NetworkConfig)
    """Encoder and decoder."""
    objective: ObjectiveConfig = field(default_factory=ObjectiveConfig)
    """Loss and its schedules."""

    def validate(self) -> None:
        """Raise `UserError` on a combination that cannot be built."""
        self.network.validate()
        self.objective.validate()
        if self.codebook_size < 2:
            raise UserError("model.codebook_size must be at least 2")
        if self.grid * self.network.downsampling != self.image_size:
            raise UserError(
                f"model.grid={self.grid} does not fit: images of {self.image_size} pixels "
                f"downsampled {self.network.downsampling} times need model.image_size="
                f"{self.grid * self.network.downsampling}, or change model.network.groups"
            )
