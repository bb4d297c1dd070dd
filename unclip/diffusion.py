"""Adding noise, the losses of predicting it, and steps backwards; schedules are diffusers'."""

import math
from collections.abc import Callable, Iterator
from itertools import pairwise
from typing import Any

import torch
from diffusers.schedulers.scheduling_ddpm import DDPMScheduler
from torch import Tensor

from unclip.config import SCHEDULES, NoiseConfig

Predict = Callable[[Tensor, Tensor], Tensor]
"""From noisy data [B, ...] and steps [B] to a prediction."""


def signal_shares(config: NoiseConfig) -> Tensor:
    """Return ᾱ of each step, [steps]: the share of the variance that is still data's."""
    schedule: Any = DDPMScheduler  # whose arguments are typed as literals
    made = schedule(num_train_timesteps=config.steps, beta_schedule=SCHEDULES[config.schedule])
    return made.alphas_cumprod


def diffusion_loss(
    config: NoiseConfig,
    shares: Tensor,
    predict: Predict,
    clean: Tensor,
    steps: Tensor,
    noise: Tensor,
) -> Tensor:
    """Return the loss of each example, [B]: mean squared error, and a learned variance's bound.

    Args:
        config: what is predicted.
        shares: `signal_shares(config)`.
        predict: the network; with a learned variance it returns twice the channels.
        clean: data [B, C, ...].
        steps: int64 [B], from 0.
        noise: like `clean`.
    """
    now = shares.to(clean)[steps].view(-1, *(1,) * (clean.ndim - 1))
    noisy = now.sqrt() * clean + (1 - now).sqrt() * noise
    predicted, spread = predict(noisy, steps).float(), None
    if config.variance == "learned":
        predicted, spread = predicted.chunk(2, dim=1)
    target = {
        "sample": clean,
        "epsilon": noise,
        "v_prediction": now.sqrt() * noise - (1 - now).sqrt() * clean,
    }[config.prediction]
    simple = (predicted - target).square().flatten(1).mean(dim=1)
    if spread is None:
        return simple
    original = original_of(config, noisy, predicted.detach(), now)
    bound = variance_bound(shares, clean, noisy, original, spread, steps)
    # Times the steps: the bound is a sum over them (arXiv 2102.09672).
    return simple + config.bound_weight * config.steps * bound


def variance_bound(
    shares: Tensor,
    clean: Tensor,
    noisy: Tensor,
    original: Tensor,
    spread: Tensor,
    steps: Tensor,
) -> Tensor:
    """Return each example's term of the variational bound, [B], in bits a value, whose gradient
    reaches the variance alone.

    The logarithm of the variance lies between those of the posterior and of the step's own noise,
    by `spread` from -1 to 1 (arXiv 2102.09672, equation 15); `original` is what the network takes
    for the data. At step 0 the term is the negative log-likelihood of the data as a density.
    """
    shape = (-1,) + (1,) * (clean.ndim - 1)
    products = shares.to(clean)
    now = products[steps].view(shape)
    before = torch.where(steps > 0, products[(steps - 1).clamp(min=0)], 1.0).view(shape)
    beta = 1 - now / before
    posterior = (1 - before) / (1 - now) * beta
    # At step 0 the posterior has no spread: the next step's stands in for it, as in the source.
    first = (1 - products[0]) / (1 - products[1]) * (1 - products[1] / products[0])
    low = posterior.maximum(first).log()
    share = (spread + 1) / 2
    log_variance = share * beta.log() + (1 - share) * low
    original = original.clamp(-1, 1)
    weights = before.sqrt() * beta / (1 - now), (now / before).sqrt() * (1 - before) / (1 - now)
    true_mean, mean = (weights[0] * start + weights[1] * noisy for start in (clean, original))
    squares = (true_mean - mean).square()
    divergence = 0.5 * (
        log_variance - low + (low - log_variance).exp() + squares * (-log_variance).exp() - 1
    )
    likelihood = 0.5 * (
        math.log(2 * math.pi) + log_variance + (clean - mean).square() * (-log_variance).exp()
    )
    terms = torch.where(steps.view(shape) > 0, divergence, likelihood)
    return terms.flatten(1).mean(dim=1) / math.log(2)


def original_of(config: NoiseConfig, noisy: Tensor, predicted: Tensor, now: Tensor) -> Tensor:
    """Return the clean data that a prediction means, given the share of signal ᾱ."""
    if config.prediction == "sample":
        return predicted
    if config.prediction == "epsilon":
        return (noisy - (1 - now).sqrt() * predicted) / now.sqrt()
    return now.sqrt() * noisy - (1 - now).sqrt() * predicted


def guided(predict: Predict, scale: float, variance: bool) -> Predict:
    """Return predictions with classifier-free guidance (arXiv 2207.12598).

    Args:
        predict: of twice the batch: with its condition, then without.
        scale: 1 is no guidance.
        variance: whether the second half of the channels is a variance: that with the condition
            is taken, unguided.
    """

    def both(noisy: Tensor, steps: Tensor) -> Tensor:
        with_it, without = predict(torch.cat([noisy, noisy]), torch.cat([steps, steps])).chunk(2)
        mixed = without + scale * (with_it - without)
        if not variance:
            return mixed
        middle = mixed.shape[1] // 2
        return torch.cat([mixed[:, :middle], with_it[:, middle:]], dim=1)

    return both


@torch.no_grad()
def denoise(
    config: NoiseConfig,
    predict: Predict,
    start: Tensor,
    steps: int,
    eta: float = 0.0,
    noises: Callable[[int], Tensor] | None = None,
    limit: float = 0.0,
) -> Iterator[Tensor]:
    """Yield data after each step from noise (DDIM, arXiv 2010.02502, equation 12).

    Args:
        config: of the network's training.
        predict: the network.
        start: noise [B, C, ...].
        steps: how many, evenly over all.
        eta: share of fresh noise, 0 to 1; at 1 a learned variance is used.
        noises: the noise of each step [B, C, ...], where eta is above 0.
        limit: clean data lies from -limit to limit; 0: anywhere.
    """
    products = signal_shares(config).to(start)
    # The first is the noisiest step that was trained on; the last leads to clean data.
    count = min(steps, config.steps)
    at = [round((count - k) * config.steps / count) - 1 for k in range(count)]
    data = start
    for number, (step, following) in enumerate(pairwise([*at, -1])):
        now = products[step]
        before = products[following] if following >= 0 else torch.ones_like(now)
        where = torch.full((len(data),), step, dtype=torch.long, device=data.device)
        predicted, spread = predict(data, where).float(), None
        if config.variance == "learned":
            predicted, spread = predicted.chunk(2, dim=1)
        clean = original_of(config, data, predicted, now)
        clean = clean.clamp(-limit, limit) if limit else clean
        noise = (data - now.sqrt() * clean) / (1 - now).sqrt()
        deviation = eta * ((1 - before) / (1 - now) * (1 - now / before)).sqrt()
        data = before.sqrt() * clean + (1 - before - deviation**2).clamp(min=0).sqrt() * noise
        if eta and noises and following >= 0:
            if spread is not None and eta == 1:
                share, beta = (spread + 1) / 2, 1 - now / before
                deviation = beta ** (share / 2) * deviation ** (1 - share)
            data = data + deviation * noises(number).to(data)
        yield data
