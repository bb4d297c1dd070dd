"""The dVAE's evidence lower bound as a figure: of each image, without what training adds to it."""

import math
from abc import abstractmethod
from collections.abc import Callable

import torch
from torch import Tensor

from dvae.config import DVAEConfig, ObjectiveConfig
from dvae.likelihood import logit_laplace_best_ln_b, logit_laplace_nll
from dvae.networks import Decoder, map_pixels, one_hot
from dvae.tokenizer import Elb, ImageTokenizer


class WithBound(ImageTokenizer):
    """A tokenizer that has a posterior of codes and a likelihood of pixel values."""

    config: DVAEConfig
    decoder: Decoder

    @abstractmethod
    def logits(self, images: Tensor) -> Tensor:
        """Return the posterior's logits [B, K, R, C] for images in [0, 1]."""

    @torch.no_grad()
    def elb(self, images: Tensor, generator: torch.Generator) -> Elb:
        logits = self.logits(images).float()
        return elb(self.config.objective, images, logits, self.decoder, generator)


def elb(
    options: ObjectiveConfig,
    images: Tensor,
    logits: Tensor,
    decoder: Callable[[Tensor], Tensor],
    generator: torch.Generator,
) -> Elb:
    """Return the bounds of images (section 2.1, A.3) with logit-Laplace likelihood and KL weight 1.

    Unlike the training loss it decodes codes that are drawn from the posterior, not relaxed ones:
    only then is it a bound. Training's other terms, weights and schedules are left out. Models that
    were trained by this likelihood have their own scale b; others have none, and each image gets
    its likeliest one.

    Args:
        options: what the model was trained by.
        images: [B, 3, H, W] in [0, 1].
        logits: the posterior's, [B, K, R, C], in float32.
        decoder: one-hot codes [B, K, R, C] to the six maps [B, 6, H, W].
        generator: of the CPU; draws the codes.
    """
    log_q = logits.log_softmax(dim=1)
    noise = torch.rand(logits.shape, generator=generator).clamp_min_(1e-30)
    gumbels = noise.log_().neg_().clamp_min_(1e-30).log_().neg_().to(logits.device)
    codes = one_hot((log_q + gumbels).argmax(dim=1), logits.shape[1], logits.dtype)
    maps = decoder(codes).float()
    mapped, mu = map_pixels(images), maps[:, :3]
    scale = scale_of(options)
    if scale == "image":
        ln_b = logit_laplace_best_ln_b(mapped, mu)
    elif scale == "constant":
        ln_b = torch.full_like(mu, options.constant_ln_b)
    else:
        ln_b = maps[:, 3:]
    nll = logit_laplace_nll(mapped, mu, ln_b).mean(dim=(1, 2, 3))
    kl = math.log(logits.shape[1]) + (log_q.exp() * log_q).sum(dim=1)  # at each position
    return Elb(nll, kl.sum(dim=(1, 2)) / images[0].numel())


def scale_of(options: ObjectiveConfig) -> str:
    """Return whose scale b counts: that of training, or the likeliest one of each image."""
    trained = options.likelihood == "logit_laplace" and options.likelihood_weight > 0
    return options.scale if trained else "image"
