"""Sampling codes for captions: prefill, then a code at a time, in batches of candidates.

Shapes: B captions, N candidates in all, T text length, RC codes in an image, K codebook size.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from dalle.cache import Prefill, Slots, attend_step
from dalle.config import Sampling
from dalle.sampling import candidate_uniforms, guide, sample_codes
from dalle.transformer import Transformer
from dalle_base.common.errors import UserError
from dalle_base.data.text import PADDING

TO_SAMPLE = -1
"""Stands among given codes for one that the model is to sample."""
Step = Callable[[Tensor, Tensor, Sequence[Slots]], Tensor]
"""`decode_step` for one model, as it is (`eager_step`) or compiled (`dalle.compiled`)."""


class Generated(NamedTuple):
    """Sampled images, as codes."""

    codes: Tensor
    """[N, RC] codes in raster order, the given ones included."""
    log_likelihood: Tensor
    """[N] log probability of the sampled codes (not the given) under the caption, in nats: at
    temperature 1 and without guidance, whatever they were sampled with."""


class Progress(NamedTuple):
    """How far sampling has come, after each step. A step decodes one code of a batch's images."""

    step: int
    """Steps done."""
    steps: int
    """Steps in all."""
    codes: Tensor
    """The batch's codes so far, [n, RC], `TO_SAMPLE` for those that are still to come."""


def generate(
    model: Transformer,
    tokens: Tensor,
    sampling: Sampling,
    given: Tensor | None = None,
    step: Step | None = None,
) -> Generated:
    """Sample images for captions: `generate_batches`, all of them in one."""
    parts = generate_batches(model, tokens, sampling, given, step)
    codes, log_likelihood = zip(*parts, strict=True)
    return Generated(torch.cat(codes), torch.cat(log_likelihood))


@torch.inference_mode()
def generate_batches(
    model: Transformer,
    tokens: Tensor,
    sampling: Sampling,
    given: Tensor | None = None,
    step: Step | None = None,
    progress: Callable[[Progress], None] | None = None,
) -> Iterator[Generated]:
    """Sample images for captions, batch by batch.

    A caption's candidates stand side by side. Candidate k of a seed is sampled with random numbers
    of its own, so it is the same image whatever the number of candidates, captions or the batch.

    Args:
        model: on the device where everything happens.
        tokens: [B, T] captions, with `PADDING` where there is no text.
        sampling: how, and how many candidates of each caption.
        given: [n] codes to keep, in raster order, with `TO_SAMPLE` for each that is to be sampled,
            as is what comes after them. A code is sampled from what comes before it and does not
            look ahead at what is given behind.
        step: decodes one code: the model's `eager_step` by default, or a compiled one.
        progress: called after each step.

    Returns:
        An iterator of `Generated`, N = B * candidates images in all, on the model's device.

    Raises:
        UserError: before anything is sampled, for values that make no sense; and later if the
            model's outputs are not finite.
    """
    kept = _check(model, tokens, sampling, given)
    captions = tokens.to(model.start.device)
    candidates = range(sampling.first, sampling.first + sampling.candidates)
    batches = _batches(len(captions), candidates, sampling.batch_size)
    steps = len(batches) * (len(kept) - _given_in_front(kept))
    done = 0
    for batch in batches:
        decoding = _Decoding(model, step or eager_step(model), captions, batch, sampling, kept)
        with evaluating(model):
            for _ in decoding.steps():
                done += 1
                if progress:
                    progress(Progress(done, steps, decoding.codes))
        if not decoding.log_likelihood.isfinite().all():
            raise UserError("the model's outputs are not finite: its weights are damaged")
        yield Generated(decoding.codes, decoding.log_likelihood)


class _Batch(NamedTuple):
    """Candidates that are decoded together: as many of each caption."""

    captions: slice
    candidates: range


class _Decoding:
    """A batch in the middle of being sampled: `codes` [n, RC] and their `log_likelihood` [n]."""

    def __init__(
        self,
        model: Transformer,
        step: Step,
        tokens: Tensor,
        batch: _Batch,
        sampling: Sampling,
        kept: list[int],
    ) -> None:
        self.model, self.step, self.sampling, self.kept = model, step, sampling, kept
        self.guided = sampling.guidance_scale != 1
        self.tokens, self.candidates = tokens[batch.captions], batch.candidates
        rows = len(self.tokens) * len(batch.candidates)
        self.codes = torch.tensor(kept, device=tokens.device).repeat(rows, 1)
        self.log_likelihood = torch.zeros(rows, device=tokens.device)
        seeds = sampling.seed
        seeds = (seeds,) * len(tokens) if isinstance(seeds, int) else seeds
        uniforms = [
            candidate_uniforms(seed, k, len(kept))
            for seed in seeds[batch.captions]
            for k in batch.candidates
        ]
        self.uniforms = torch.stack(uniforms).to(tokens.device)

    def steps(self) -> Iterator[None]:
        """Sample or pass over one code after another, those that are given in front all at once."""
        start = _given_in_front(self.kept)
        if start == len(self.kept):
            return
        logits, slots = self._read_captions(start)
        places = torch.arange(len(self.kept), device=self.codes.device).split(1)
        for j in range(start, len(self.kept)):
            if j > start:
                last = self.codes[:, j - 1]
                last = last.repeat(2) if self.guided else last
                logits = self.step(last, places[j - 1], slots)
            if self.kept[j] == TO_SAMPLE:
                self._sample(j, logits)
            yield

    def _read_captions(self, start: int) -> tuple[Tensor, list[Slots]]:
        """Read each caption, with the codes in front, once; its candidates go on from there."""
        tokens = self.tokens
        if self.guided:
            tokens = torch.cat([tokens, torch.full_like(tokens, PADDING)])
        prefix = self.codes[:1, :start].expand(len(tokens), -1)
        logits, slots = prefill(self.model, tokens, prefix)
        count = len(self.candidates)
        return logits.repeat_interleave(count, dim=0), [each.repeat(count) for each in slots]

    def _sample(self, j: int, logits: Tensor) -> None:
        chosen = guide(logits, self.sampling.guidance_scale) if self.guided else logits
        code = sample_codes(chosen, self.uniforms[:, j], self.sampling)
        self.codes[:, j] = code
        log_probability = logits[: len(code)].float().log_softmax(dim=-1)
        self.log_likelihood += log_probability.gather(-1, code[:, None])[:, 0]


def prefill(
    model: Transformer, tokens: Tensor, prefix: Tensor | None = None
) -> tuple[Tensor, list[Slots]]:
    """Read captions, and the codes that are given in front, in one pass.

    Args:
        model: the transformer.
        tokens: [B, T].
        prefix: [B, n] codes, n < RC.

    Returns:
        The logits of the next code, [B, K], and each layer's slots, which hold what was read.
    """
    x = model.embed_text(tokens)
    if prefix is not None:
        x = torch.cat([x, model.embed_codes(prefix)], dim=1)
    layers = [Prefill(model.cache_plan(pattern)) for pattern in model.patterns]
    logits = model.image_head(model.hidden(x, layers)[:, -1])
    return logits, [layer.slots for layer in layers if layer.slots]


def decode_step(model: Transformer, codes: Tensor, index: Tensor, slots: Sequence[Slots]) -> Tensor:
    """Read one more code for each row; return the logits of the next one, [N, K].

    Nothing depends on values that Python would have to look at, so that one program can be made of
    it for every code of an image (`dalle.compiled`).

    Args:
        model: the transformer.
        codes: [N], the codes to read.
        index: [1], their raster index.
        slots: of each layer; they hold these codes too afterwards.
    """
    attends = [
        partial(attend_step, model.cache_plan(pattern), store, index)
        for pattern, store in zip(model.patterns, slots, strict=True)
    ]
    x = model.embed_codes(codes[:, None], index)
    return model.image_head(model.hidden(x, attends, index)[:, -1])


def eager_step(model: Transformer) -> Step:
    """Return `decode_step` for a model, as it is."""
    return partial(decode_step, model)


def check_tokens(model: Transformer, tokens: Tensor) -> None:
    """Raise `UserError` for captions that the model cannot read."""
    vocabulary, length = model.config.text_vocab, model.stream.text_length
    if tokens.ndim != 2 or tokens.shape[1] != length or len(tokens) == 0:
        raise UserError(f"text of shape {list(tokens.shape)}: the model reads [B, {length}]")
    for token in tokens[(tokens != PADDING) & ((tokens < 0) | (tokens >= vocabulary))].tolist():
        raise UserError(f"text token {token} is outside the model's vocabulary of {vocabulary}")


def check_codes(model: Transformer, codes: Tensor) -> None:
    """Raise `UserError` for a code that the model does not know."""
    vocabulary = model.config.image_vocab
    for code in codes[(codes < 0) | (codes >= vocabulary)].tolist():
        raise UserError(f"given code {code} is outside the model's codebook of {vocabulary}")


def check_sampling(model: Transformer, sampling: Sampling) -> None:
    """Raise `UserError` for a way of sampling that the model does not know."""
    vocabulary = model.config.image_vocab
    if sampling.top_k > vocabulary:
        raise UserError(
            f"top_k is {sampling.top_k}: write 0 (off) or 1 to {vocabulary}, the codebook size"
        )
    if sampling.guidance_scale != 1 and not model.config.text_drop:
        raise UserError(
            f"guidance_scale is {sampling.guidance_scale}, but this model was trained without "
            "model.text_drop and does not know images without captions: leave it at 1"
        )


def _check(
    model: Transformer, tokens: Tensor, sampling: Sampling, given: Tensor | None
) -> list[int]:
    """Check `generate`'s inputs; return the RC codes to keep, `TO_SAMPLE` for the others."""
    check_sampling(model, sampling)
    check_tokens(model, tokens)
    seeds, length = sampling.seed, model.stream.image_length
    if not isinstance(seeds, int) and len(seeds) != len(tokens):
        raise UserError(f"{len(seeds)} seeds for {len(tokens)} captions: give one, or one for each")
    if given is None:
        return [TO_SAMPLE] * length
    if given.ndim != 1 or len(given) > length:
        raise UserError(
            f"given codes of shape {list(given.shape)}: give at most the {length} of an image, as "
            "one row"
        )
    check_codes(model, given[given != TO_SAMPLE])
    return given.tolist() + [TO_SAMPLE] * (length - len(given))


def _given_in_front(kept: list[int]) -> int:
    return kept.index(TO_SAMPLE) if TO_SAMPLE in kept else len(kept)


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


@contextmanager
def evaluating(model: Transformer) -> Iterator[None]:
    """Switch dropout off for a while: a training loop may sample on the way."""
    training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(training)
