"""Drawing codes for a caption, one at a time (paper section 2.6)."""

import hashlib
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple

import torch
from torch import Tensor

from dalle.cache import Cache
from dalle.text import PADDING
from dalle.transformer import Transformer
from training.errors import UserError

DRAW = -1
"""Stands among given codes for one that the model is to draw."""


class Generated(NamedTuple):
    """Drawn images, as codes."""

    codes: Tensor
    """[N, RC] codes in raster order, the given ones included."""
    log_likelihood: Tensor
    """[N] log probability of the drawn codes (not the given) under the caption, in nats: at
    temperature 1 and without guidance, whatever they were drawn with."""


def prefill(model: Transformer, text: Tensor, prefix: Tensor | None = None) -> tuple[Tensor, Cache]:
    """Read captions, and the codes that are given, in one pass.

    `text` is [B, T], `prefix` [B, n] with n < RC. Returns the logits of the next code, [B, K], and
    a cache that holds what was read.
    """
    x = model.embed_text(text)
    if prefix is not None:
        x = torch.cat([x, model.embed_codes(prefix)], dim=1)
    cache = model.new_cache()
    return model.image_head(model.hidden(x, cache)[:, -1]), cache


def decode_one(model: Transformer, codes: Tensor, cache: Cache) -> Tensor:
    """Read one more code for each row, `codes` [B]; return the logits of the next one, [B, K].

    The cache knows the position, and holds this one too afterwards.
    """
    x = model.embed_codes(codes[:, None], first=cache.length - model.stream.text_inputs)
    return model.image_head(model.hidden(x, cache)[:, -1])


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


def sample_token(
    logits: Tensor,
    uniforms: Tensor,
    temperature: float = 1.0,
    top_k: int = 0,
    top_p: float = 1.0,
) -> Tensor:
    """Draw a code for each row by inverse CDF: `logits` [B, K] and `uniforms` [B] to codes [B].

    The code is the first whose cumulated probability exceeds the uniform number in [0, 1). The
    temperature divides the logits first; `top_k` and `top_p` then truncate, see `truncate`.
    """
    check_sampling(temperature, top_k, top_p, logits.shape[-1])
    logits = logits.float()
    # The largest goes to 0 first: a very low temperature would carry it to infinity.
    logits = (logits - logits.amax(dim=-1, keepdim=True)) / temperature
    share = truncate(logits, top_k, top_p).softmax(dim=-1)
    # Sums on a GPU need not grow steadily in the last bit: a code without probability is put out
    # of reach by hand, and so is the end of the scale.
    cdf = share.cumsum(dim=-1).masked_fill(share == 0, 0)
    total = cdf.amax(dim=-1)
    target = torch.minimum(uniforms * total, torch.nextafter(total, torch.zeros_like(total)))
    return (cdf > target[:, None]).byte().argmax(dim=-1)


def check_sampling(temperature: float, top_k: int, top_p: float, vocabulary: int) -> None:
    """Raise `UserError` for a value that `sample_token` cannot sample with."""
    if not (temperature > 0 and math.isfinite(temperature)):
        raise UserError(
            f"temperature is {temperature}: write a number above 0 (top_k=1 takes the likeliest)"
        )
    if not 0 <= top_k <= vocabulary:
        raise UserError(f"top_k is {top_k}: write 0 (off) or 1 to {vocabulary}, the codebook size")
    if not 0 < top_p <= 1:
        raise UserError(f"top_p is {top_p}: write a share above 0, up to 1 (off)")


def candidate_uniforms(seed: int, candidate: int, count: int) -> Tensor:
    """The random numbers of candidate k of seed s, one a code: [count] in [0, 1), on the CPU.

    A (seed, candidate) pair names its numbers, whatever else is drawn beside it.
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


@torch.inference_mode()
def generate(
    model: Transformer,
    text: Tensor,
    candidates: int = 1,
    seed: int | Sequence[int] = 0,
    temperature: float = 1.0,
    top_k: int = 0,
    top_p: float = 1.0,
    guidance_scale: float = 1.0,
    given: Tensor | None = None,
    batch_size: int = 64,
    progress: Callable[[int, int], None] | None = None,
) -> Generated:
    """Draw `candidates` images for each caption in `text` [B, T].

    Returns N = B * candidates images, a caption's candidates side by side. Candidate k of a seed
    is drawn with random numbers of its own (`candidate_uniforms`), so it is the same image
    whatever the number of candidates, captions, or `batch_size`, the number decoded at a time.
    `seed` is one for all captions, or one for each.

    A `guidance_scale` other than 1 draws from `guide`d logits, for models that were trained with
    `text_drop`: each image is then decoded twice, side by side, with and without its caption.

    `given` [n] are codes to keep, in raster order, with `DRAW` for each that is to be drawn; what
    comes after them is drawn, too. A code is drawn from what comes before it and does not look
    ahead at what is given behind. `progress` is called after each step with the steps done and in
    all; a step decides one code of each image in a batch.

    The paper uses temperature 1 and no truncation. Raises `UserError`, before anything is drawn,
    for values that make no sense, and at the end if the model's outputs were not finite.
    """
    stream, vocabulary = model.stream, model.config.image_vocab
    device = model.image_head.weight.device
    seeds = [seed] * len(text) if isinstance(seed, int) else list(seed)
    if given is None:
        given = torch.empty(0, dtype=torch.long)
    check_sampling(temperature, top_k, top_p, vocabulary)
    _check_guidance(model, guidance_scale)
    _check_inputs(model, text, given, seeds, candidates, batch_size)
    text = text.to(device)

    rows = [(caption, k) for caption in range(len(text)) for k in range(candidates)]
    batches = [rows[i : i + batch_size] for i in range(0, len(rows), batch_size)]
    kept = given.tolist() + [DRAW] * (stream.image_length - len(given))
    # What is given in front is read in one pass.
    start = kept.index(DRAW) if DRAW in kept else stream.image_length
    codes = torch.tensor(kept, device=device).repeat(len(rows), 1)
    log_likelihood = torch.zeros(len(rows), device=device)
    guided = guidance_scale != 1
    with _evaluating(model):
        for i, batch in enumerate(batches if start < stream.image_length else ()):
            first = batch[0][0]
            captions = text[first : batch[-1][0] + 1]
            own = [caption - first for caption, _ in batch]
            if guided:
                own += [len(captions)] * len(batch)
                captions = torch.cat([captions, torch.full_like(captions[:1], PADDING)])
            logits, cache = prefill(model, captions, codes[:1, :start].expand(len(captions), -1))
            # The captions are read once each; their candidates go on from there.
            index = torch.tensor(own, device=device)
            logits, cache = logits[index], cache.fork(index)
            uniforms = torch.stack(
                [candidate_uniforms(seeds[c], k, stream.image_length) for c, k in batch]
            ).to(device)
            part = slice(i * batch_size, i * batch_size + len(batch))
            steps = stream.image_length - start
            for j in range(start, stream.image_length):
                if j > start:
                    last = codes[part, j - 1]
                    logits = decode_one(model, last.repeat(2) if guided else last, cache)
                if kept[j] == DRAW:
                    chosen = guide(logits, guidance_scale) if guided else logits
                    code = sample_token(chosen, uniforms[:, j], temperature, top_k, top_p)
                    codes[part, j] = code
                    log_probability = logits[: len(batch)].float().log_softmax(dim=-1)
                    log_likelihood[part] += log_probability.gather(-1, code[:, None])[:, 0]
                if progress:
                    progress(i * steps + j + 1 - start, len(batches) * steps)
    if not log_likelihood.isfinite().all():
        raise UserError("the model's outputs are not finite: its weights are damaged")
    return Generated(codes, log_likelihood)


def fitting_batch(model: Transformer, memory: int, guided: bool = False, most: int = 64) -> int:
    """Return how many candidates of a caption fit their caches into `memory` bytes, up to `most`.

    Raises `UserError` where not even one fits.
    """
    streams = 2 if guided else 1  # guidance decodes each candidate twice
    text = model.cache_bytes(streams, 0)
    each = model.cache_bytes(0, streams)
    if text + each > memory:
        raise UserError(
            f"one candidate's caches take {(text + each) / 1e6:.1f} MB and {memory / 1e6:.1f} MB "
            "are allowed: allow more"
        )
    return min(most, (memory - text) // each)


def _check_guidance(model: Transformer, scale: float) -> None:
    """Raise `UserError` for a scale that the model cannot be guided by."""
    if not (scale >= 0 and math.isfinite(scale)):
        raise UserError(f"guidance_scale is {scale}: write a number of at least 0 (1: no guidance)")
    if scale != 1 and not model.config.text_drop:
        raise UserError(
            f"guidance_scale is {scale}, but this model was trained without model.text_drop and "
            "does not know pictures without captions: leave it at 1"
        )


def _check_inputs(
    model: Transformer,
    text: Tensor,
    given: Tensor,
    seeds: list[int],
    candidates: int,
    batch_size: int,
) -> None:
    """Raise `UserError` for the first of `generate`'s inputs that the model cannot take."""
    text_vocab, vocabulary = model.config.text_vocab, model.config.image_vocab
    for name, value in (("candidates", candidates), ("batch_size", batch_size)):
        if value < 1:
            raise UserError(f"{name} is {value}: write a number of at least 1")
    if text.ndim != 2 or text.shape[1] != model.stream.text_length or len(text) == 0:
        raise UserError(
            f"text of shape {list(text.shape)}: the model reads [B, {model.stream.text_length}]"
        )
    if len(seeds) != len(text):
        raise UserError(f"{len(seeds)} seeds for {len(text)} captions: give one, or one for each")
    for token in text[(text != PADDING) & ((text < 0) | (text >= text_vocab))].tolist():
        raise UserError(f"text token {token} is outside the model's vocabulary of {text_vocab}")
    if given.ndim != 1 or len(given) > model.stream.image_length:
        raise UserError(
            f"given codes of shape {list(given.shape)}: give at most the "
            f"{model.stream.image_length} of an image, as one row"
        )
    for code in given[(given != DRAW) & ((given < 0) | (given >= vocabulary))].tolist():
        raise UserError(f"given code {code} is outside the model's codebook of {vocabulary}")


@contextmanager
def _evaluating(model: Transformer) -> Iterator[None]:
    """Switch dropout off for a while: a training loop may draw samples on the way."""
    training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(training)
