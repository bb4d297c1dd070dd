"""The discrete VAE of the paper (section 2.1, appendix A): what it reads and what it shows."""

import torch
from torch import Tensor

from dalle_base.common.schema import validate_all
from dvae.config import DVAEConfig
from dvae.elb import WithBound
from dvae.latents import LatentLogits
from dvae.networks import Decoder, Encoder, GridAttention, map_pixels, one_hot, unmap_pixels
from dvae.objective import negative_elb
from dvae.tokenizer import LossReport, leave_uncompiled


class DiscreteVAE(LatentLogits, WithBound):
    """Encoder, Gumbel-softmax relaxation and decoder."""

    def __init__(self, config: DVAEConfig) -> None:
        super().__init__()
        validate_all(config, "model")
        self.config = config
        self.vocab_size = config.codebook_size
        self.image_size = config.image_size
        self.rows = self.columns = config.grid
        self.encoder = Encoder(config.network, config.codebook_size)
        self.decoder = Decoder(config.network, config.codebook_size)
        # Data-parallel wrappers would wait for gradients that never come.
        self.encoder.requires_grad_(not config.objective.decoder_only)

    def logits(self, images: Tensor) -> Tensor:
        """Return the posterior's logits [B, K, R, C] for images in [0, 1]."""
        return self.encoder(map_pixels(images)) * self.config.objective.logit_scale

    def hidden_weights(self) -> list[Tensor]:
        ends = ("blocks.input.", "blocks.output.")
        return [
            parameter
            for network in (self.encoder, self.decoder)
            for name, parameter in network.named_parameters()
            if parameter.ndim == 4 and not name.startswith(ends)
        ]

    def codebook(self) -> Tensor:
        return self.decoder.get_parameter("blocks.input.w").detach()[:, :, 0, 0].T

    def last_layer(self) -> Tensor:
        return self.decoder.get_parameter("blocks.output.conv.w")

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
        """Return the negative ELB a pixel value; see `negative_elb`."""
        options = self.config.objective
        with torch.set_grad_enabled(torch.is_grad_enabled() and not options.decoder_only):
            logits = self.logits(images).float()
        return negative_elb(options, images, logits, self.decoder, step)

    def compile_networks(self) -> None:
        leave_uncompiled(self, GridAttention)
        super().compile_networks()
