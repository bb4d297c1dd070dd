"""VQGAN (arXiv 2012.09841): networks, quantiser, and the loss of pixels and codes."""

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dalle_base.common.schema import validate_all
from dvae.tokenizer import Drawn, ImageTokenizer, LossReport, leave_uncompiled
from dvae.vqgan.config import VQGANConfig
from dvae.vqgan.networks import Attention, Decoder, Encoder
from dvae.vqgan.quantisers import make_quantiser

PIXEL_LOSSES = {"l1": F.l1_loss, "l2": F.mse_loss}


class VQGAN(ImageTokenizer):
    """Encoder, quantiser and decoder. Perceptual and adversarial losses are the script's to add."""

    def __init__(self, config: VQGANConfig) -> None:
        super().__init__()
        validate_all(config, "model")
        self.config = config
        self.vocab_size = config.codebook_size
        self.image_size = config.image_size
        self.rows = self.columns = config.grid
        network = config.network
        options = config.quantiser_options.get(config.quantiser)
        self.quantiser = make_quantiser(
            config.quantiser, config.codebook_size, network.code_width, options
        )
        self.encoder = Encoder(network)
        self.decoder = Decoder(network)
        self.quant_conv = nn.Conv2d(network.z_channels, self.quantiser.width, 1)
        self.post_quant_conv = nn.Conv2d(self.quantiser.width, network.z_channels, 1)
        if config.objective.decoder_only:
            # Data-parallel wrappers would wait for gradients that never come.
            for part in (self.encoder, self.quant_conv, self.quantiser):
                part.requires_grad_(False)

    def encoded(self, images: Tensor) -> Tensor:
        """Return the vectors [B, D, R, C] that are quantised, in float32, of images in [0, 1]."""
        features = self.encoder(2 * images - 1)
        with _exact(features):
            return self.quant_conv(features.float())

    def draw(self, vectors: Tensor) -> Tensor:
        """Return the images of vectors [B, D, R, C], in about [0, 1], not clamped."""
        return (self.decoder(self.post_quant_conv(vectors)).float() + 1) / 2

    def codebook(self) -> Tensor:
        codes = torch.arange(self.vocab_size, device=self.decoder.conv_out.weight.device)
        return self.quantiser.vectors(codes.view(-1, 1, 1)).detach().flatten(1)

    def last_layer(self) -> Tensor:
        """Return the weights of the decoder's last layer, to balance losses of images at."""
        return self.decoder.conv_out.weight

    def hidden_weights(self) -> list[Tensor]:
        ends = ("encoder.conv_in.", "decoder.conv_out.")
        return [
            parameter
            for name, parameter in self.named_parameters()
            if name.startswith(("encoder.", "decoder."))
            and parameter.ndim == 4
            and not name.startswith(ends)
        ]

    def code_state(self) -> dict[str, Tensor]:
        return {
            **self.encoder.state_dict(prefix="encoder."),
            **self.quant_conv.state_dict(prefix="quant_conv."),
            **{f"quantiser.{name}": value for name, value in self.quantiser.code_state().items()},
        }

    @torch.no_grad()
    def encode(self, images: Tensor) -> Tensor:
        vectors = self.encoded(images)
        with _exact(vectors):
            return self.quantiser.codes(vectors)

    @torch.no_grad()
    def decode(self, codes: Tensor) -> Tensor:
        return self.draw(self.quantiser.vectors(codes)).clamp(0, 1)

    def latents(self, codes: Tensor) -> Tensor:
        return self.quantiser.latents(codes).detach()

    def draw_latents(self, latents: Tensor) -> Drawn:
        with _exact(latents):
            vectors, codes = self.quantiser.relax(latents)
        return Drawn(self.draw(vectors), codes)

    def latent_unit(self) -> float:
        return self.quantiser.unit()

    def limit_latents(self, latents: Tensor) -> None:
        self.quantiser.limit(latents)

    def loss(self, images: Tensor, step: int) -> LossReport:
        """Return the loss of pixels and codes; nothing in it depends on `step`."""
        options = self.config.objective
        if options.decoder_only:
            codes = self.encode(images)
            return self._pixel_loss(images, codes, self.quantiser.vectors(codes))
        vectors = self.encoded(images)
        with _exact(vectors):
            quantised = self.quantiser(vectors)
        report = self._pixel_loss(images, quantised.codes, quantised.vectors)
        report.total = (
            report.total
            + options.commitment * quantised.commitment
            + options.codebook_weight * quantised.codebook
            + quantised.regulariser
        )
        report.metrics |= {"commitment": quantised.commitment.detach(), **quantised.metrics}
        return report

    def _pixel_loss(self, images: Tensor, codes: Tensor, vectors: Tensor) -> LossReport:
        """Return the loss of pixels alone, of the images drawn from the vectors of codes."""
        options = self.config.objective
        drawn = self.draw(vectors)
        pixels = PIXEL_LOSSES[options.pixel_loss](drawn, images)
        name = f"pixel_{options.pixel_loss}"
        metrics = {name: pixels.detach(), **usage(codes, self.vocab_size)}
        return LossReport(options.pixel_weight * pixels, {**metrics}, drawn)

    def compile_networks(self) -> None:
        leave_uncompiled(self, Attention)
        # The quantiser changes its own tables as it runs, and stays as it is.
        self.encoder.compile()
        self.decoder.compile()


def usage(codes: Tensor, vocab_size: int) -> dict[str, Tensor]:
    """Return the perplexity of a batch's codes and the share of all codes that are among them.

    Unlike `dvae.metrics.code_usage` it leaves the figures on the device, unread.
    """
    flat = codes.flatten()
    counts = torch.zeros(vocab_size, device=codes.device)
    counts.scatter_add_(0, flat, torch.ones_like(flat, dtype=counts.dtype))
    p = counts / counts.sum()
    entropy = -(p * p.clamp_min(1e-12).log()).sum()
    return {
        "batch_perplexity": entropy.exp(),
        "batch_codes_used": (counts > 0).float().mean(),
    }


def _exact(values: Tensor) -> AbstractContextManager[Any]:
    """Return a context without autocast: rounded vectors would have other codes."""
    device = values.device.type
    if torch.amp.is_autocast_available(device):
        return torch.autocast(device, enabled=False)
    return nullcontext()
