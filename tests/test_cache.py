"""What caches keep and read: exactly what the patterns allow, and one text for all candidates."""

import pytest
import torch
from builders import build, inputs

from benchmarks.dense_cache import decode_dense, prefill_dense
from dalle.cache import Prefill
from dalle.cache_plan import plan_cache
from dalle.generate import decode_step, prefill
from dalle.memory import fitting_batch
from dalle.patterns import PATTERNS, make_pattern, paper_layers
from dalle.patterns.base import Pattern
from dalle.stream import Stream
from dalle_base.common.errors import UserError

PAPER = Stream(256, 32, 32)


def make(name: str, kernel: int = 11) -> Pattern:
    return make_pattern(name, {"kernel": kernel} if name == "conv" else None)


def plan_of(name: str, stream: Stream, kernel: int = 11):
    pattern = make(name, kernel)
    mask = pattern.mask(stream)
    return plan_cache(mask, stream.text_inputs, pattern.slots(stream, mask))


def test_a_papers_cache_is_under_a_quarter_of_one_that_repeats_the_text() -> None:
    sizes = {name: plan_of(name, PAPER).size for name in ("row", "column", "conv")}
    assert sizes == {"row": 33, "column": 1024, "conv": 166}
    kept = sum(sizes[name] for name in paper_layers(64))
    assert kept == 47 * 33 + 16 * 1024 + 166
    assert kept / (64 * 1280) == pytest.approx(0.22, abs=0.005)


@pytest.mark.parametrize("grid", [(4, 4), (3, 5), (5, 3), (1, 6), (6, 1), (1, 1)])
@pytest.mark.parametrize("kernel", [1, 3, 9])
@pytest.mark.parametrize("name", PATTERNS)
def test_a_step_reads_the_codes_that_the_pattern_allows_and_no_others(name, kernel, grid) -> None:
    stream = Stream(2, *grid)
    plan = plan_of(name, stream, kernel)
    mask = make(name, kernel).mask(stream)
    holds = torch.full((plan.size,), -1)
    assert plan.slots.tolist() == list(plan.order)
    for code in range(stream.image_length - 1):
        holds[plan.slots[code]] = code
        allowed = mask[stream.text_inputs + code, stream.text_inputs :].nonzero()[:, 0]
        places = torch.arange(plan.size) if plan.reads is None else plan.reads[code]
        read = holds[places][plan.bias[code] == 0]
        assert read.sort().values.equal(allowed)
        assert plan.bias[code][plan.bias[code] != 0].eq(-torch.inf).all()


def test_a_step_reads_as_much_as_the_pattern_needs() -> None:
    width = {name: plan_of(name, PAPER).bias.shape[1] for name in ("row", "column", "conv")}
    assert width == {"row": 33, "column": 32, "conv": 61}
    assert plan_of("row", PAPER).reads is None  # a ring is read where it lies


def test_a_slot_overwritten_too_early_is_refused() -> None:
    stream = Stream(2, 3, 3)
    mask = PATTERNS["row"]().mask(stream)
    plan_cache(mask, stream.text_inputs, [code % 4 for code in range(9)])
    with pytest.raises(ValueError, match="code 3 sees a code whose slot was written anew"):
        plan_cache(mask, stream.text_inputs, [code % 3 for code in range(9)])


@torch.inference_mode()
def test_candidates_share_their_captions_text_and_nothing_is_allocated_in_a_step() -> None:
    model = build(depth=4, layers=["row", "column", "conv", "full"])
    tokens, codes = inputs(model)
    slots = prefill(model, tokens)[1]
    fork = [each.repeat(3) for each in slots]
    assert len(fork) == len(model.patterns)
    for store, parent, pattern in zip(fork, slots, model.patterns, strict=True):
        assert store.text_keys is parent.text_keys
        assert store.text_values is parent.text_values
        assert store.keys.shape[::2] == (6, model.cache_plan(pattern).size)
    addresses = [tensor.data_ptr() for store in fork for tensor in store]
    dense = [cache.repeat(3) for cache in prefill_dense(model, tokens)[1]]
    branch = torch.cat([codes, codes.roll(1, dims=1), codes.roll(2, dims=1)])
    for j in range(codes.shape[1] - 1):
        step = decode_step(model, branch[:, j], torch.tensor([j]), fork)
        expected = decode_dense(model, branch[:, j], dense)
        torch.testing.assert_close(step, expected, rtol=0, atol=1e-5)
    assert [tensor.data_ptr() for store in fork for tensor in store] == addresses


@pytest.mark.parametrize("prefix", [0, 1, 7])
@pytest.mark.parametrize("name", [*PATTERNS, "paper"])
@torch.inference_mode()
def test_a_step_is_that_of_the_dense_cache(name, prefix) -> None:
    model = build(depth=3, layers=[] if name == "paper" else [name] * 3, rows=4, columns=3)
    tokens, codes = inputs(model)
    logits, slots = prefill(model, tokens, codes[:, :prefix])
    expected, dense = prefill_dense(model, tokens, codes[:, :prefix])
    torch.testing.assert_close(logits, expected, rtol=0, atol=1e-5)
    for j in range(prefix, codes.shape[1] - 1):
        logits = decode_step(model, codes[:, j], torch.tensor([j]), slots)
        expected = decode_dense(model, codes[:, j], dense)
        torch.testing.assert_close(logits, expected, rtol=0, atol=1e-5)


@torch.inference_mode()
def test_a_cache_starts_with_all_of_the_text() -> None:
    model = build()
    tokens, _ = inputs(model)
    layers = [Prefill(model.cache_plan(pattern)) for pattern in model.patterns]
    with pytest.raises(ValueError, match="takes all"):
        model.hidden(model.embed_text(tokens)[:, :1], layers)


@torch.inference_mode()
def test_the_bytes_are_those_that_are_allocated() -> None:
    model = build(depth=4, layers=["row", "column", "conv", "row"])
    tokens, _ = inputs(model)
    fork = [each.repeat(3) for each in prefill(model, tokens)[1]]
    allocated = sum(tensor.untyped_storage().nbytes() for store in fork for tensor in store)
    assert allocated == model.cache_bytes(captions=2, candidates=6)


def test_batches_fit_the_memory() -> None:
    model = build(depth=3)
    for guided in (False, True):
        streams = 1 + guided
        for memory in (20_000, 50_000, 123_456):
            batch = fitting_batch(model, memory, guided, most=10**9)
            assert model.cache_bytes(streams, streams * batch) <= memory
            assert model.cache_bytes(streams, streams * (batch + 1)) > memory
    assert fitting_batch(model, 10**9) == 64
    with pytest.raises(UserError, match="one candidate's caches take"):
        fitting_batch(model, 100)
