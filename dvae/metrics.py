"""How good a tokenizer is: reconstruction quality and use of the codebook."""

import numpy as np
import torch
from torch import Tensor

from dvae.tokenizer import ImageTokenizer
from training.pictures import to_tensor


def psnr(images: Tensor, others: Tensor) -> Tensor:
    """Return each picture's peak signal-to-noise ratio in dB; both are [B, 3, H, W] in [0, 1]."""
    error = (images - others).square().mean(dim=(1, 2, 3)).clamp_min(1e-10)
    return -10 * error.log10()


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
    tokenizer: ImageTokenizer, pictures: list[np.ndarray], batch_size: int = 64
) -> dict[str, float]:
    """Measure hard-coded reconstructions of uint8 [3, H, W] pictures.

    `psnr` is the mean of the pictures' own PSNRs; `psnr_pooled` is that of the mean squared error
    over all of them, which hard pictures dominate.
    """
    device = next(tokenizer.parameters()).device
    values, errors, codes = [], [], []
    for first in range(0, len(pictures), batch_size):
        images = to_tensor(pictures[first : first + batch_size]).to(device)
        codes.append(tokenizer.encode(images))
        decoded = tokenizer.decode(codes[-1])
        values.append(psnr(images, decoded))
        errors.append((images - decoded).square().mean(dim=(1, 2, 3)))
    return {
        "psnr": float(torch.cat(values).mean()),
        "psnr_pooled": float(-10 * torch.cat(errors).mean().log10()),
        **code_usage(torch.cat(codes), tokenizer.vocab_size),
    }
