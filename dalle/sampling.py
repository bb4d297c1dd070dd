"""From logits to codes: guidance, temperature, truncation, and random numbers that seeds name."""

import hashlib

import torch
from torch import Tensor

from dalle.config import Sampling


def guide(logits: Tensor, scale: float) -> Tensor:
    """Move logits away from those without a caption (Ho and Salimans 2022, arXiv 2207.12598).

    `logits` [2N, K] are those of N images under their captions, then of the same without; returns
    [N, K]. A scale of 1 is the caption's own, above 1 follows it more closely.
    """
    conditional, free = logits.float().chunk(2)
    return free + scale * (conditional - free)


def truncate(logits: Tensor, top_k: int = 0, top_p: float = 1.0) -> Tensor:
    """Minus infinity for all but the likeliest codes: `logits` [B, K] to [B, K].

    At most `top_k` codes stay (0: all), and of those the fewest likeliest whose share reaches
    `top_p`. Among equals the lower code comes first, so ties never let more than `top_k` stay.
    """
    if top_k == 0 and top_p == 1:
        return logits
    ranked, order = logits.sort(dim=-1, descending=True, stable=True)
    if top_k:
        ranked[..., top_k:] = -torch.inf
    share = ranked.softmax(dim=-1)
    ranked[share.cumsum(dim=-1) - share >= top_p] = -torch.inf
    return torch.empty_like(logits).scatter_(-1, order, ranked)


def sample_codes(logits: Tensor, uniforms: Tensor, sampling: Sampling) -> Tensor:
    """Sample a code for each row by inverse CDF: `logits` [B, K] and `uniforms` [B] to codes [B].

    The code is the first whose cumulated probability exceeds the uniform number in [0, 1). The
    temperature divides the logits first; `top_k` and `top_p` then truncate, see `truncate`.
    """
    logits = logits.float()
    # The largest goes to 0 first: a very low temperature would carry it to infinity.
    logits = (logits - logits.amax(dim=-1, keepdim=True)) / sampling.temperature
    share = truncate(logits, sampling.top_k, sampling.top_p).softmax(dim=-1)
    # Sums on a GPU need not grow steadily in the last bit: a code without probability is put out
    # of reach by hand, and so is the end of the scale.
    cdf = share.cumsum(dim=-1).masked_fill(share == 0, 0)
    total = cdf.amax(dim=-1)
    target = torch.minimum(uniforms * total, torch.nextafter(total, torch.zeros_like(total)))
    return (cdf > target[:, None]).byte().argmax(dim=-1)


def candidate_uniforms(seed: int, candidate: int, count: int) -> Tensor:
    """The random numbers of candidate k of seed s, one a code: [count] in [0, 1), on the CPU.

    A (seed, candidate) pair names its numbers, whatever else is sampled beside it.
    """
    # PyTorch's CPU generator keeps 32 bits of its seed. Each step below is a bijection of the
    # candidate in 32 bits (those after the xor are MurmurHash3's finaliser), so no two candidates
    # of a seed share their numbers.
    digest = hashlib.blake2b(str(seed).encode(), digest_size=4).digest()
    mixed = int.from_bytes(digest, "little") ^ (candidate & 0xFFFFFFFF)
    mixed = ((mixed ^ (mixed >> 16)) * 0x85EBCA6B) & 0xFFFFFFFF
    mixed = ((mixed ^ (mixed >> 13)) * 0xC2B2AE35) & 0xFFFFFFFF
    generator = torch.Generator().manual_seed(mixed ^ (mixed >> 16))
    return torch.rand(count, generator=generator)
