"""The discrete VAE of the paper (section 2.1, appendix A), with its departures as named options."""

import math
from dataclasses import dataclass, field

import torch
from torch import Tensor

from dvae.likelihood import BEST_LN_B, LIKELIHOODS, map_pixels, unmap_pixels
from dvae.networks import Decoder, Encoder, NetworkConfig
from dvae.tokenizer import ImageTokenizer, LossReport
from training.errors import UserError
from training.schedules import cosine

SCALES = ("learned", "constant", "picture")


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
    """The likelihood's scale b: learned (the decoder's ln b, the paper), constant, or picture (the
    most likely one for each picture as it is reconstructed: Rybkin et al. 2021, section 4.2)."""
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

    def validate(self) -> None:
        """Raise `UserError` on impossible values."""
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


@dataclass
class DVAEConfig:
    """The dVAE: picture, grid, codebook, networks, loss."""

    image_size: int = 256
    """Side of the square pictures, in pixels."""
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
                f"model.grid={self.grid} does not fit: pictures of {self.image_size} pixels "
                f"downsampled {self.network.downsampling} times need model.image_size="
                f"{self.grid * self.network.downsampling}, or change model.network.groups"
            )


def one_hot(codes: Tensor, codebook_size: int, dtype: torch.dtype) -> Tensor:
    """Return codes [B, R, C] as one-hot vectors along dim 1: [B, K, R, C]."""
    shape = (codes.shape[0], codebook_size, *codes.shape[1:])
    return torch.zeros(shape, dtype=dtype, device=codes.device).scatter_(1, codes[:, None], 1.0)


def gumbel_softmax(logits: Tensor, temperature: float, straight_through: bool = False) -> Tensor:
    """Return a relaxed sample over dim 1 of [B, K, R, C] logits (section 2.1).

    Gumbel noise is made from uniform numbers: on a CPU that takes a fifth of the time of the
    exponential ones in `torch.nn.functional.gumbel_softmax`.
    """
    tiny = torch.finfo(logits.dtype).tiny
    noise = -(-torch.rand_like(logits).clamp_min_(tiny).log_()).clamp_min_(tiny).log_()
    soft = ((logits + noise) / temperature).softmax(dim=1)
    if not straight_through:
        return soft
    hard = one_hot(soft.argmax(dim=1), soft.shape[1], soft.dtype)
    return hard + soft - soft.detach()


class DiscreteVAE(ImageTokenizer):
    """Encoder, Gumbel-softmax relaxation and decoder."""

    def __init__(self, config: DVAEConfig) -> None:
        super().__init__()
        config.validate()
        self.config = config
        self.vocab_size = config.codebook_size
        self.image_size = config.image_size
        self.rows = self.columns = config.grid
        self.encoder = Encoder(config.network, config.codebook_size)
        self.decoder = Decoder(config.network, config.codebook_size)

    def logits(self, images: Tensor) -> Tensor:
        """Return the posterior's logits [B, K, R, C] for pictures in [0, 1]."""
        return self.encoder(map_pixels(images)) * self.config.objective.logit_scale

    def hidden_weights(self) -> list[Tensor]:
        ends = ("blocks.input.", "blocks.output.")
        return [
            parameter
            for network in (self.encoder, self.decoder)
            for name, parameter in network.named_parameters()
            if parameter.ndim == 4 and not name.startswith(ends)
        ]

    def code_state(self) -> dict[str, Tensor]:
        return self.encoder.state_dict()

    @torch.no_grad()
    def encode(self, images: Tensor) -> Tensor:
        return self.logits(images).argmax(dim=1)

    @torch.no_grad()
    def decode(self, codes: Tensor) -> Tensor:
        maps = self.decoder(one_hot(codes, self.vocab_size, next(self.parameters()).dtype))
        return unmap_pixels(torch.sigmoid(maps[:, :3].float()))

    def loss(self, images: Tensor, step: int) -> LossReport:
        """Return the negative ELB a pixel value (A.3: all over 3HW), under A.2's schedules."""
        options = self.config.objective
        temperature = cosine(
            step, options.temperature_updates, options.temperature_start, options.temperature_end
        )
        with torch.set_grad_enabled(torch.is_grad_enabled() and not options.decoder_only):
            logits = self.logits(images).float()
        log_q = logits.log_softmax(dim=1)
        q = log_q.exp()
        if options.decoder_only:
            sample = one_hot(logits.argmax(dim=1), self.vocab_size, logits.dtype)
        else:
            sample = gumbel_softmax(logits, temperature, options.straight_through)
        maps = self.decoder(sample).float()
        mapped, mu = map_pixels(images), maps[:, :3]
        ln_b = self._ln_b(mapped, mu, maps[:, 3:], step)
        nll = LIKELIHOODS[options.likelihood](mapped, mu, ln_b)

        values = images[0].numel()  # 3·H·W
        kl = math.log(self.vocab_size) + (q * log_q).sum(dim=1)  # nats at each grid position
        kl_per_value = kl.sum(dim=(1, 2)).mean() / values
        posterior_entropy = math.log(self.vocab_size) - kl.mean()
        marginal = q.mean(dim=(0, 2, 3))
        marginal_entropy = -(marginal * (marginal + 1e-10).log()).sum()

        weighted = nll * ln_b.detach().mul(options.beta_nll).exp() if options.beta_nll else nll
        kl_weight = cosine(step, options.kl_updates, 0.0, options.kl_weight)
        total = (
            weighted.mean()
            + kl_weight * kl_per_value
            - options.entropy_weight * marginal_entropy
            + options.confidence_weight * posterior_entropy
        )
        bits = 1 / math.log(2)
        return LossReport(
            total,
            {
                "elb_bits": -(nll.detach().mean() + kl_per_value.detach()) * bits,
                "nll_bits": nll.detach().mean() * bits,
                "kl_bits": kl_per_value.detach() * bits,
                "soft_perplexity": marginal_entropy.detach().exp(),
                "posterior_perplexity": posterior_entropy.detach().exp(),
                "temperature": temperature,
                "kl_weight": kl_weight,
            },
        )

    def _ln_b(self, mapped: Tensor, mu: Tensor, learned: Tensor, step: int) -> Tensor:
        options = self.config.objective
        if options.scale == "picture":
            # At its optimum the likelihood has no gradient in b, so b may as well be detached.
            return BEST_LN_B[options.likelihood](mapped, mu.detach())
        if options.scale == "constant" or step < options.scale_learned_after:
            return torch.full_like(learned, options.constant_ln_b)
        return learned
