"""Likelihoods of pixel values, as they are mapped by `dvae.networks` (appendix A.3)."""

import math

import torch
from torch import Tensor

SMALLEST_SCALE = 1e-3  # a quarter of a grey level: a perfect image must not have infinite weight


def logit_laplace_nll(mapped: Tensor, mu: Tensor, ln_b: Tensor) -> Tensor:
    """Return −ln f(x | μ, b) for each pixel value, in nats (A.3).

    f(x | μ, b) = exp(−|logit(x) − μ| / b) / (2 b x (1 − x)). All shapes broadcast to `mapped`'s,
    which must lie strictly between 0 and 1.
    """
    distance = (torch.logit(mapped) - mu).abs()
    return distance * torch.exp(-ln_b) + ln_b + math.log(2) + torch.log(mapped * (1 - mapped))


def gaussian_nll(mapped: Tensor, mu: Tensor, ln_b: Tensor) -> Tensor:
    """Return −ln N(x; sigmoid(μ), b²) for each pixel value, in nats.

    Squared error around the reconstruction, which the paper does not use.

    `mu` is a logit as in `logit_laplace_nll`, so that reconstructions are read off alike.
    """
    distance = (mapped - torch.sigmoid(mu)) * torch.exp(-ln_b)
    return 0.5 * distance.square() + ln_b + 0.5 * math.log(2 * math.pi)


LIKELIHOODS = {"logit_laplace": logit_laplace_nll, "gaussian": gaussian_nll}


def logit_laplace_best_ln_b(mapped: Tensor, mu: Tensor) -> Tensor:
    """Return the ln b [B, 1, 1, 1] under which each image's values are most likely."""
    distance = (torch.logit(mapped) - mu).abs()
    return distance.mean(dim=(1, 2, 3), keepdim=True).clamp_min(SMALLEST_SCALE).log()


def gaussian_best_ln_b(mapped: Tensor, mu: Tensor) -> Tensor:
    """Return the ln b [B, 1, 1, 1] under which each image's values are most likely.

    With it the likelihood is an image's PSNR but for a factor and a constant.
    """
    error = (mapped - torch.sigmoid(mu)).square().mean(dim=(1, 2, 3), keepdim=True)
    return 0.5 * error.clamp_min(SMALLEST_SCALE**2).log()


BEST_LN_B = {"logit_laplace": logit_laplace_best_ln_b, "gaussian": gaussian_best_ln_b}
