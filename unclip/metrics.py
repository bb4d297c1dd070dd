"""How well a prior and a decoder do on held-out images."""

import torch
from torch import Tensor

from unclip.decoder import Decoder, shown
from unclip.prior import Prior
from unclip.reading import Caption, unscaled

SEED = 0
MEASURED = 10
"""Steps of diffusion that the loss is measured at, evenly over all of them."""
TOGETHER = 64


def measured_steps(steps: int) -> list[int]:
    """Return the steps at which losses are measured."""
    return [round((i + 0.5) * steps / MEASURED) for i in range(MEASURED)]


@torch.no_grad()
def measure_prior(
    prior: Prior, embedding: Tensor, text: Caption, sampling_steps: int = 64
) -> dict[str, float]:
    """Return the figures of a prior on held-out images.

    `held_out_loss` at fixed steps and noise; `cosine_image` of drawn and true embeddings, which
    should be high; `cosine_text` of drawn embeddings and their captions', which should be near that
    of the real ones, `cosine_real`; `cosine_other` of drawn embeddings and other captions', which
    should be near 0 (lucidrains/DALLE2-pytorch, prior.md).
    """
    noise = noise_like(embedding)
    losses = []
    for step in measured_steps(prior.config.noise.steps):
        at = torch.full((len(embedding),), step, device=embedding.device)
        dropped = torch.zeros(len(embedding), dtype=torch.bool, device=embedding.device)
        losses.append(prior(embedding, text, at, noise, dropped).mean().item())
    drawn = unscaled(prior.sample(text, noise, sampling_steps))
    real, captions = unscaled(embedding), unscaled(text.embedding)
    return {
        "held_out_loss": sum(losses) / len(losses),
        "cosine_image": (drawn * real).sum(dim=1).mean().item(),
        "cosine_text": (drawn * captions).sum(dim=1).mean().item(),
        "cosine_real": (real * captions).sum(dim=1).mean().item(),
        "cosine_other": (drawn * captions.roll(1, dims=0)).sum(dim=1).mean().item(),
    }


@torch.no_grad()
def measure_decoder(
    decoder: Decoder, images: Tensor, embedding: Tensor, text: Caption
) -> dict[str, float]:
    """Return `held_out_loss` of images [N, 3, H, W] at fixed steps and noise, each step's alike."""
    losses = []
    noise = noise_like(images)
    for step in measured_steps(decoder.config.noise.steps):
        for first in range(0, len(images), TOGETHER):
            part = slice(first, first + TOGETHER)
            condition = shown(embedding[part], text.part(part), read=True)
            at = torch.full((len(images[part]),), step, device=images.device)
            losses.append(decoder(images[part], condition, at, noise[part]))
    return {"held_out_loss": torch.cat(losses).mean().item()}


def noise_like(values: Tensor) -> Tensor:
    """Return the same normal numbers for values of this shape at each call."""
    generator = torch.Generator().manual_seed(SEED)
    return torch.randn(values.shape, generator=generator).to(values)
