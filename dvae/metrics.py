"""How good a tokenizer is: reconstruction quality and use of the codebook."""

import numpy as np
import torch
from torch import Tensor

from dalle_base.common.images import to_tensor
from dvae.tokenizer import ImageTokenizer


def squared_error(images: Tensor, others: Tensor) -> Tensor:
    """Return each image's mean squared error [B]; both are [B, 3, H, W]."""
    return (images - others).square().mean(dim=(1, 2, 3))


def decibels(error: Tensor) -> Tensor:
    """Return the peak signal-to-noise ratio in dB of mean squared errors of pixels in [0, 1]."""
    return -10 * error.clamp_min(1e-10).log10()


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
    over all of them, which hard images dominate.
    """
    device = next(tokenizer.parameters()).device
    errors, codes = [], []
    for first in range(0, len(images), batch_size):
        pixels = to_tensor(images[first : first + batch_size]).to(device)
        codes.append(tokenizer.encode(pixels))
        errors.append(squared_error(pixels, tokenizer.decode(codes[-1])))
    error = torch.cat(errors)
    return {
        "psnr": float(decibels(error).mean()),
        "psnr_pooled": float(decibels(error.mean())),
        **code_usage(torch.cat(codes), tokenizer.vocab_size),
    }
