"""How good a tokenizer is: reconstruction quality and use of the codebook."""

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from dalle_base.common.images import to_tensor
from dvae.tokenizer import ImageTokenizer

LUMA = (0.299, 0.587, 0.114)
"""Weights of red, green and blue."""


def squared_error(images: Tensor, others: Tensor) -> Tensor:
    """Return each image's mean squared error [B]; both are [B, 3, H, W]."""
    return (images - others).square().mean(dim=(1, 2, 3))


def decibels(error: Tensor) -> Tensor:
    """Return the peak signal-to-noise ratio in dB of mean squared errors of pixels in [0, 1]."""
    return -10 * error.clamp_min(1e-10).log10()


def ssim(images: Tensor, others: Tensor) -> Tensor:
    """Return each image's structural similarity [B], at most 1: equal (Wang et al. 2004).

    Of luma (ITU-R BT.601), as there: the mean over all places where a window of 11 x 11 weighted by
    a Gaussian (σ = 1.5) lies within the image; K1 = 0.01, K2 = 0.03.

    Args:
        images: [B, 3, H, W] in [0, 1].
        others: the same shape. Where a side is below 11, so is the window's.
    """
    luma = images.new_tensor(LUMA)
    x, y = (torch.einsum("bchw,c->bhw", each, luma) for each in (images, others))
    means = _windows(torch.stack([x, y, x * x, y * y, x * y]))
    mean_x, mean_y = means[0], means[1]
    variance = means[2] - mean_x.square() + means[3] - mean_y.square()
    covariance = means[4] - mean_x * mean_y
    c1, c2 = 0.01**2, 0.03**2
    luminance = (2 * mean_x * mean_y + c1) / (mean_x.square() + mean_y.square() + c1)
    return (luminance * (2 * covariance + c2) / (variance + c2)).mean(dim=(1, 2))


def _windows(maps: Tensor) -> Tensor:
    """Return the Gaussian means of all windows of maps [..., H, W]."""
    rows, columns = (_gaussians(side).to(maps) for side in maps.shape[-2:])
    return rows @ maps @ columns.T  # a Gaussian is separable


def _gaussians(side: int) -> Tensor:
    """Return the weights [places, side] of each place of a window along one side."""
    size = min(11, side)
    weights = (
        ((torch.arange(size, dtype=torch.float64) - (size - 1) / 2) / 1.5).square().div(-2).exp()
    )
    weights = weights / weights.sum()
    return torch.stack([F.pad(weights, (i, side - size - i)) for i in range(side - size + 1)])


def code_usage(codes: Tensor, vocab_size: int) -> dict[str, float]:
    """Return the perplexity of the marginal distribution of codes and the share of codes in use."""
    counts = torch.bincount(codes.flatten(), minlength=vocab_size).double()
    p = counts / counts.sum()
    entropy = -(p * p.clamp_min(1e-12).log()).sum()
    return {
        "perplexity": float(entropy.exp()),
        "perplexity_share": float(entropy.exp()) / vocab_size,
        "codes_used": float((counts > 0).double().mean()),
    }


@torch.inference_mode()
def measure(
    tokenizer: ImageTokenizer, images: list[np.ndarray], batch_size: int = 64
) -> dict[str, float]:
    """Measure hard-coded reconstructions of uint8 [3, H, W] images.

    `psnr` is the mean of the images' own PSNRs; `psnr_pooled` is that of the mean squared error
    over all of them, which hard images dominate. `ssim` is the mean of the images' own.
    """
    device = next(tokenizer.parameters()).device
    errors, similarities, codes = [], [], []
    for first in range(0, len(images), batch_size):
        pixels = to_tensor(images[first : first + batch_size]).to(device)
        codes.append(tokenizer.encode(pixels))
        rebuilt = tokenizer.decode(codes[-1])
        errors.append(squared_error(pixels, rebuilt))
        similarities.append(ssim(pixels, rebuilt))
    error = torch.cat(errors)
    return {
        "psnr": float(decibels(error).mean()),
        "psnr_pooled": float(decibels(error.mean())),
        "ssim": float(torch.cat(similarities).mean()),
        **code_usage(torch.cat(codes), tokenizer.vocab_size),
    }
