"""The dVAE's loss (section 2.1, appendices A.2 and A.3), with its departures as named options."""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from dalle_base.training import processes
from dalle_base.training.schedules import cosine
from dvae.config import ObjectiveConfig
from dvae.likelihood import BEST_LN_B, LIKELIHOODS
from dvae.networks import EPSILON, map_pixels, one_hot
from dvae.tokenizer import LossReport


def gumbel_softmax(logits: Tensor, temperature: float, straight_through: bool = False) -> Tensor:
    """Return a relaxed sample over dim 1 of [B, K, R, C] logits (section 2.1).

    Gumbel noise is made from uniform numbers: on a CPU that takes a fifth of the time of the
    exponential ones in `torch.nn.functional.gumbel_softmax`.
    """
    tiny = torch.finfo(logits.dtype).tiny
    noise = -(-processes.uniform_like(logits).clamp_min_(tiny).log_()).clamp_min_(tiny).log_()
    soft = ((logits + noise) / temperature).softmax(dim=1)
    if not straight_through:
        return soft
    hard = one_hot(soft.argmax(dim=1), soft.shape[1], soft.dtype)
    return hard + soft - soft.detach()


def reconstruction_of(mu: Tensor) -> Tensor:
    """Return the pixel values of μ (logits): what decoding shows, but not clamped to [0, 1].

    A clamp would leave pixels outside without the gradient that brings them back.
    """
    return (torch.sigmoid(mu) - EPSILON) / (1 - 2 * EPSILON)


def negative_elb(
    options: ObjectiveConfig,
    images: Tensor,
    logits: Tensor,
    decoder: Callable[[Tensor], Tensor],
    step: int,
) -> LossReport:
    """Return the negative ELB a pixel value (A.3: all over 3HW), under A.2's schedules.

    Args:
        options: weights, schedules, likelihood.
        images: [B, 3, H, W] in [0, 1].
        logits: the posterior's, [B, K, R, C], in float32.
        decoder: (soft) one-hot codes [B, K, R, C] to the six maps [B, 6, H, W].
        step: number of the update, from 0.
    """
    temperature = cosine(
        step, options.temperature_updates, options.temperature_start, options.temperature_end
    )
    log_q = logits.log_softmax(dim=1)
    q = log_q.exp()
    maps = decoder(_sample(options, logits, temperature)).float()
    mapped, mu = map_pixels(images), maps[:, :3]
    ln_b = _ln_b(options, mapped, mu, maps[:, 3:], step)
    nll = LIKELIHOODS[options.likelihood](mapped, mu, ln_b)

    values, most = images[0].numel(), math.log(logits.shape[1])  # 3·H·W; entropy of all K codes
    kl = most + (q * log_q).sum(dim=1)  # nats at each grid position
    kl_per_value = kl.sum(dim=(1, 2)).mean() / values
    posterior_entropy = most - kl.mean()
    marginal = processes.mean_with_gradient(q.mean(dim=(0, 2, 3)))
    marginal_entropy = -(marginal * (marginal + 1e-10).log()).sum()

    weighted = nll * ln_b.detach().mul(options.beta_nll).exp() if options.beta_nll else nll
    kl_weight = cosine(step, options.kl_updates, 0.0, options.kl_weight)
    total = (
        options.likelihood_weight * weighted.mean()
        + kl_weight * kl_per_value
        - options.entropy_weight * marginal_entropy
        + options.confidence_weight * posterior_entropy
    )
    reconstruction, l1 = reconstruction_of(mu), {}
    if options.l1_weight:
        error = (reconstruction - images).abs().mean()
        total, l1 = total + options.l1_weight * error, {"l1": error.detach()}
    bits = 1 / math.log(2)
    return LossReport(
        total,
        {
            **l1,
            "elb_bits": -(nll.detach().mean() + kl_per_value.detach()) * bits,
            "nll_bits": nll.detach().mean() * bits,
            "kl_bits": kl_per_value.detach() * bits,
            "soft_perplexity": marginal_entropy.detach().exp(),
            "posterior_perplexity": processes.mean(posterior_entropy.detach()).exp(),
            "temperature": temperature,
            "kl_weight": kl_weight,
        },
        reconstruction,
    )


def _sample(options: ObjectiveConfig, logits: Tensor, temperature: float) -> Tensor:
    if options.decoder_only:
        return one_hot(logits.argmax(dim=1), logits.shape[1], logits.dtype)
    return gumbel_softmax(logits, temperature, options.straight_through)


def _ln_b(
    options: ObjectiveConfig, mapped: Tensor, mu: Tensor, learned: Tensor, step: int
) -> Tensor:
    if options.scale == "image":
        # At its optimum the likelihood has no gradient in b, so b may as well be detached.
        return BEST_LN_B[options.likelihood](mapped, mu.detach())
    if options.scale == "constant" or step < options.scale_learned_after:
        return torch.full_like(learned, options.constant_ln_b)
    return learned
