"""What caches keep and read: exactly what the patterns allow, and one text for all candidates."""

import pytest
import torch
from test_transformer import build, inputs

from dalle.cache import Cache, DenseLayerCache, PatternLayerCache, plan_cache
from dalle.generate import decode_one, fitting_batch, prefill
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
    for code, places in enumerate(plan.reads):
        holds[plan.slots[code]] = code
        allowed = mask[stream.text_inputs + code, stream.text_inputs :].nonzero()[:, 0]
        assert holds[places].sort().values.equal(allowed)


def test_rows_and_columns_are_read_without_gathering() -> None:
    for name in ("row", "column", "full"):
        assert all(isinstance(places, slice) for places in plan_of(name, Stream(3, 4, 5)).reads)


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
    index = torch.tensor([0, 0, 1, 1, 1])
    fork = cache.fork(index)
    stores = []
    for layer, parent in zip(fork.layers, cache.layers, strict=True):
        assert isinstance(layer, PatternLayerCache)
        assert isinstance(parent, PatternLayerCache)
        assert layer._text is parent._text
        assert layer._codes is not None
        assert layer._codes[0].shape[::2] == (5, layer.plan.size)
        stores.append([store.data_ptr() for store in layer._codes])
    dense = Cache([DenseLayerCache(model.mask(pattern)) for pattern in model.patterns])
    model.hidden(model.embed_text(text), dense)
    dense = dense.fork(index)
    branch = codes[index].roll(1, dims=1)
    for j in range(codes.shape[1] - 1):
        one, other = (decode_one(model, branch[:, j], kept) for kept in (fork, dense))
        torch.testing.assert_close(one, other, rtol=0, atol=1e-5)
    for layer, addresses in zip(fork.layers, stores, strict=True):
        assert isinstance(layer, PatternLayerCache)
        assert [store.data_ptr() for store in layer._codes or ()] == addresses


@torch.inference_mode()
def test_a_cache_starts_with_all_of_the_text() -> None:
    model = build()
    text, _ = inputs(model)
    with pytest.raises(ValueError, match="takes all"):
        model.hidden(model.embed_text(text)[:, :1], model.new_cache())


@torch.inference_mode()
def test_the_bytes_are_those_that_are_allocated() -> None:
    model = build(depth=4, layers=["row", "column", "conv", "row"])
    text, _ = inputs(model)
    _, cache = prefill(model, text)
    fork = cache.fork(torch.tensor([0, 0, 1, 1, 1]))
    stores = [
        store
        for layer in fork.layers
        if isinstance(layer, PatternLayerCache)
        for store in (*(layer._text or ()), *(layer._codes or ()))
    ]
    assert sum(store.nbytes for store in stores) == model.cache_bytes(captions=2, candidates=5)


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
