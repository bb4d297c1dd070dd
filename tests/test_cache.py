"""What caches keep and read: exactly what the patterns allow, and one text for all candidates."""

import pytest
import torch
from test_transformer import build, inputs

from dalle.cache import Cache, DenseLayerCache, PatternLayerCache, plan_cache
from dalle.decode import decode_one, decode_step, prefill, slots_of
from dalle.generate import fitting_batch
from dalle.patterns import PATTERNS, PatternOptions, paper_layers
from dalle.stream import Stream
from training.errors import UserError

PAPER = Stream(256, 32, 32)


def plan_of(name: str, stream: Stream, kernel: int = 11):
    pattern = PATTERNS[name](PatternOptions(conv_kernel=kernel))
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
    mask = PATTERNS[name](PatternOptions(conv_kernel=kernel)).mask(stream)
    holds = torch.full((plan.size,), -1)
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


def test_a_slot_written_anew_too_early_is_refused() -> None:
    stream = Stream(2, 3, 3)
    mask = PATTERNS["row"]().mask(stream)
    plan_cache(mask, stream.text_inputs, [code % 4 for code in range(9)])
    with pytest.raises(ValueError, match="code 3 sees a code whose slot was written anew"):
        plan_cache(mask, stream.text_inputs, [code % 3 for code in range(9)])


@torch.inference_mode()
def test_candidates_share_their_captions_text_and_nothing_is_allocated_in_a_step() -> None:
    model = build(depth=4, layers=["row", "column", "conv", "full"])
    text, codes = inputs(model)
    _, cache = prefill(model, text)
    fork, again = cache.repeat(3), cache.repeat(3)
    stores = slots_of(fork)
    for store, parent, plan in zip(stores, slots_of(cache), fork.layers, strict=True):
        assert store.text_keys is parent.text_keys
        assert isinstance(plan, PatternLayerCache)
        assert store.keys.shape[::2] == (6, plan.plan.size)
    addresses = [store.keys.data_ptr() for store in stores]
    dense = Cache([DenseLayerCache(model.mask(pattern)) for pattern in model.patterns])
    dense = prefill(model, text, cache=dense)[1].repeat(3)
    branch = torch.cat([codes, codes.roll(1, dims=1), codes.roll(2, dims=1)])
    for j in range(codes.shape[1] - 1):
        one, other = (decode_one(model, branch[:, j], kept) for kept in (fork, dense))
        torch.testing.assert_close(one, other, rtol=0, atol=1e-5)
        step = decode_step(model, branch[:, j], torch.tensor([j]), slots_of(again))
        assert torch.equal(one, step)
    assert [store.keys.data_ptr() for store in slots_of(fork)] == addresses


@torch.inference_mode()
def test_a_cache_starts_with_all_of_the_text() -> None:
    model = build()
    text, _ = inputs(model)
    attends = [layer.attend for layer in model.new_cache().layers]
    with pytest.raises(ValueError, match="takes all"):
        model.hidden(model.embed_text(text)[:, :1], attends)


@torch.inference_mode()
def test_the_bytes_are_those_that_are_allocated() -> None:
    model = build(depth=4, layers=["row", "column", "conv", "row"])
    text, _ = inputs(model)
    _, cache = prefill(model, text)
    assert cache.repeat(3).nbytes == model.cache_bytes(captions=2, candidates=6)


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
