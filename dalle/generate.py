"""Drawing codes for captions: batches of candidates, each code from what comes before it."""

import functools
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple, ParamSpec, TypeVar

import torch
from torch import Tensor

from dalle.decode import Step, eager_step, prefill, slots_of
from dalle.sampling import candidate_uniforms, check_sampling, guide, sample_token
from dalle.text import PADDING
from dalle.transformer import Transformer
from training.errors import UserError

P = ParamSpec("P")
T = TypeVar("T")

DRAW = -1
"""Stands among given codes for one that the model is to draw."""


class Generated(NamedTuple):
    """Drawn images, as codes."""

    codes: Tensor
    """[N, RC] codes in raster order, the given ones included."""
    log_likelihood: Tensor
    """[N] log probability of the drawn codes (not the given) under the caption, in nats: at
    temperature 1 and without guidance, whatever they were drawn with."""


class Progress(NamedTuple):
    """How far drawing has come, after each step. A step decides one code of a batch's images."""

    step: int
    """Steps done."""
    steps: int
    """Steps in all."""
    first: int
    """Number of the batch's first image."""
    codes: Tensor
    """The batch's codes so far, [n, RC], `DRAW` for those that are still to be drawn."""


class _Batch(NamedTuple):
    """Candidates that are drawn together: as many of each caption."""

    captions: slice
    candidates: range


def _batches(captions: int, candidates: range, batch_size: int) -> list[_Batch]:
    """Batches of at most `batch_size` images, in order: whole captions, or parts of one."""
    if len(candidates) <= batch_size:
        together = batch_size // len(candidates)
        starts = range(0, captions, together)
        return [_Batch(slice(i, min(i + together, captions)), candidates) for i in starts]
    # Parts of one size, as far as that goes: 65 by 64 are 33 and 32, not 64 and 1.
    part = math.ceil(len(candidates) / math.ceil(len(candidates) / batch_size))
    parts = [candidates[i : i + part] for i in range(0, len(candidates), part)]
    return [_Batch(slice(i, i + 1), some) for i in range(captions) for some in parts]


@torch.inference_mode()
def generate_batches(
    model: Transformer,
    text: Tensor,
    candidates: int = 1,
    seed: int | Sequence[int] = 0,
    temperature: float = 1.0,
    top_k: int = 0,
    top_p: float = 1.0,
    guidance_scale: float = 1.0,
    given: Tensor | None = None,
    first: int = 0,
    batch_size: int = 64,
    step: Step | None = None,
    progress: Callable[[Progress], None] | None = None,
) -> Iterator[Generated]:
    """Draw `candidates` images for each caption in `text` [B, T]; yield them batch by batch.

    In all they are N = B * candidates images, a caption's candidates side by side. Candidate k of a
    seed is drawn with random numbers of its own (`candidate_uniforms`), so it is the same image
    whatever the number of candidates, captions, or `batch_size`, the number decoded at a time.
    `seed` is one for all captions, or one for each; `first` is the first candidate's number.

    A `guidance_scale` other than 1 draws from `guide`d logits, for models that were trained with
    `text_drop`: each image is then decoded twice, side by side, with and without its caption.

    `given` [n] are codes to keep, in raster order, with `DRAW` for each that is to be drawn; what
    comes after them is drawn, too. A code is drawn from what comes before it and does not look
    ahead at what is given behind. `step` decodes one code: the model's `eager_step` by default, or
    a compiled one.

    The paper uses temperature 1 and no truncation. Raises `UserError`, before anything is drawn,
    for values that make no sense, and later if the model's outputs are not finite.
    """
    stream, vocabulary = model.stream, model.config.image_vocab
    device = model.start.device
    seeds = [seed] * len(text) if isinstance(seed, int) else list(seed)
    if given is None:
        given = torch.empty(0, dtype=torch.long)
    check_sampling(temperature, top_k, top_p, vocabulary)
    _check_guidance(model, guidance_scale)
    _check_inputs(model, text, given, seeds, candidates, batch_size)
    if first < 0:
        raise UserError(f"first is {first}: candidates are numbered from 0")
    text, step = text.to(device), step or eager_step(model)

    kept = given.tolist() + [DRAW] * (stream.image_length - len(given))
    # What is given in front is read in one pass.
    start = kept.index(DRAW) if DRAW in kept else stream.image_length
    batches = _batches(len(text), range(first, first + candidates), batch_size)
    places = torch.arange(stream.image_length, device=device).split(1)
    steps, done, image = stream.image_length - start, 0, 0
    guided = guidance_scale != 1
    for batch in batches:
        captions, numbers = text[batch.captions], batch.candidates
        rows = len(captions) * len(numbers)
        codes = torch.tensor(kept, device=device).repeat(rows, 1)
        log_likelihood = torch.zeros(rows, device=device)
        if start == stream.image_length:
            image += rows
            yield Generated(codes, log_likelihood)
            continue
        own = seeds[batch.captions]
        uniforms = torch.stack(
            [candidate_uniforms(s, k, stream.image_length) for s in own for k in numbers]
        ).to(device)
        if guided:
            captions = torch.cat([captions, torch.full_like(captions, PADDING)])
        with _evaluating(model):
            prefix = codes[:1, :start].expand(len(captions), -1)
            logits, cache = prefill(model, captions, prefix)
            # The captions are read once each; their candidates go on from there.
            logits = logits.repeat_interleave(len(numbers), dim=0)
            stores = slots_of(cache.repeat(len(numbers)))
            for j in range(start, stream.image_length):
                if j > start:
                    last = codes[:, j - 1]
                    last = last.repeat(2) if guided else last
                    logits = step(last, places[j - 1], stores)
                if kept[j] == DRAW:
                    chosen = guide(logits, guidance_scale) if guided else logits
                    code = sample_token(chosen, uniforms[:, j], temperature, top_k, top_p)
                    codes[:, j] = code
                    log_probability = logits[:rows].float().log_softmax(dim=-1)
                    log_likelihood += log_probability.gather(-1, code[:, None])[:, 0]
                done += 1
                if progress:
                    progress(Progress(done, len(batches) * steps, image, codes))
        if not log_likelihood.isfinite().all():
            raise UserError("the model's outputs are not finite: its weights are damaged")
        image += rows
        yield Generated(codes, log_likelihood)


def at_once(batches: Callable[P, Iterator[T]], join: Callable[[Iterable[T]], T]) -> Callable[P, T]:
    """Return a function that takes what `batches` takes, and returns all of its batches joined."""

    @functools.wraps(batches)
    def whole(*args: P.args, **kwargs: P.kwargs) -> T:
        return join(batches(*args, **kwargs))

    return whole


def _join(parts: Iterable[Generated]) -> Generated:
    codes, log_likelihood = zip(*parts, strict=True)
    return Generated(torch.cat(codes), torch.cat(log_likelihood))


generate = at_once(generate_batches, _join)
"""`generate_batches`, all of them in one: N = B * candidates images."""


@torch.inference_mode()
def log_likelihood(model: Transformer, text: Tensor, codes: Tensor, batch_size: int = 64) -> Tensor:
    """Log probability of given images under captions, in nats: [B], for `text` [B, T] and `codes`
    [B, RC]. Raises `UserError` for what the model does not know.
    """
    _check_tokens(model, text)
    _check_codes(model, codes)
    parts = []
    with _evaluating(model):
        for words, some in zip(text.split(batch_size), codes.split(batch_size), strict=True):
            logits = model.logits(words, some)[1].float()
            each = logits.log_softmax(dim=-1).gather(-1, some[..., None])[..., 0]
            parts.append(each.sum(dim=1))
    return torch.cat(parts)


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


def _check_tokens(model: Transformer, text: Tensor) -> None:
    """Raise `UserError` for captions that the model cannot read."""
    vocabulary = model.config.text_vocab
    if text.ndim != 2 or text.shape[1] != model.stream.text_length or len(text) == 0:
        raise UserError(
            f"text of shape {list(text.shape)}: the model reads [B, {model.stream.text_length}]"
        )
    for token in text[(text != PADDING) & ((text < 0) | (text >= vocabulary))].tolist():
        raise UserError(f"text token {token} is outside the model's vocabulary of {vocabulary}")


def _check_codes(model: Transformer, codes: Tensor) -> None:
    """Raise `UserError` for a code that the model does not know."""
    vocabulary = model.config.image_vocab
    for code in codes[(codes < 0) | (codes >= vocabulary)].tolist():
        raise UserError(f"given code {code} is outside the model's codebook of {vocabulary}")


def _check_inputs(
    model: Transformer,
    text: Tensor,
    given: Tensor,
    seeds: list[int],
    candidates: int,
    batch_size: int,
) -> None:
    """Raise `UserError` for the first of `generate`'s inputs that the model cannot take."""
    for name, value in (("candidates", candidates), ("batch_size", batch_size)):
        if value < 1:
            raise UserError(f"{name} is {value}: write a number of at least 1")
    _check_tokens(model, text)
    if len(seeds) != len(text):
        raise UserError(f"{len(seeds)} seeds for {len(text)} captions: give one, or one for each")
    if given.ndim != 1 or len(given) > model.stream.image_length:
        raise UserError(
            f"given codes of shape {list(given.shape)}: give at most the "
            f"{model.stream.image_length} of an image, as one row"
        )
    _check_codes(model, given[given != DRAW])


@contextmanager
def _evaluating(model: Transformer) -> Iterator[None]:
    """Switch dropout off for a while: a training loop may draw samples on the way."""
    training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(training)
