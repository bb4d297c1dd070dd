"""Sampling codes: the cache against full passes, choices against slow loops, seeds that name."""

import math

import pytest
import torch
from builders import build, inputs
from torch import Tensor

from benchmarks.dense_cache import decode_dense, prefill_dense
from dalle import generate as generate_module
from dalle.config import Sampling
from dalle.generate import (
    TO_SAMPLE,
    Generated,
    decode_step,
    generate,
    generate_batches,
    prefill,
)
from dalle.patterns import PATTERNS
from dalle.sampling import candidate_uniforms, guide, sample_codes, truncate
from dalle.transformer import Transformer
from dalle_base.common.errors import UserError
from dalle_base.data.text import PADDING


def sample(model: Transformer, tokens: Tensor, given: Tensor | None = None, **options) -> Generated:
    """`generate` with the fields of `Sampling` as keywords."""
    return generate(model, tokens, Sampling(**options), given)


@pytest.mark.parametrize(("rows", "columns", "text_length"), [(3, 4, 3), (5, 2, 1), (1, 6, 2)])
@pytest.mark.parametrize("prefix", [0, 1, 5])
@pytest.mark.parametrize("name", [*PATTERNS, "paper"])
@torch.inference_mode()
def test_cached_decoding_is_a_full_pass(name, rows, columns, text_length, prefix):
    layers = [] if name == "paper" else [name] * 3
    sizes = {"rows": rows, "columns": columns, "text_length": text_length}
    model = build(depth=3, layers=layers, **sizes)
    tokens, codes = inputs(model)
    tokens[1, -1] = PADDING
    _, expected = model.logits(tokens, codes)
    logits, slots = prefill(model, tokens, codes[:, :prefix])
    dense_logits, dense = prefill_dense(model, tokens, codes[:, :prefix])
    assert dense[0].length == text_length + 1 + prefix
    assert all(each.text_keys.shape[2] == text_length + 1 for each in slots)
    for got in (logits, dense_logits):
        torch.testing.assert_close(got, expected[:, prefix], rtol=0, atol=1e-5)
    for j in range(prefix, model.stream.image_length - 1):
        logits = decode_step(model, codes[:, j], torch.tensor([j]), slots)
        for got in (logits, decode_dense(model, codes[:, j], dense)):
            torch.testing.assert_close(got, expected[:, j + 1], rtol=0, atol=1e-5)


@torch.inference_mode()
def test_candidates_go_on_from_their_own_caption_and_leave_the_first_slots_alone():
    model = build()
    tokens, codes = inputs(model)
    _, slots = prefill(model, tokens)
    fork = [each.repeat(3) for each in slots]
    caption = torch.tensor([0, 0, 0, 1, 1, 1])
    branch = torch.stack([codes[row].roll(k) for k, row in enumerate(caption)])
    _, expected = model.logits(tokens[caption], branch)
    for j in range(3):
        logits = decode_step(model, branch[:, j], torch.tensor([j]), fork)
        torch.testing.assert_close(logits, expected[:, j + 1], rtol=0, atol=1e-5)
    _, expected = model.logits(tokens, codes)
    logits = decode_step(model, codes[:, 0], torch.tensor([0]), slots)
    torch.testing.assert_close(logits, expected[:, 1], rtol=0, atol=1e-5)


def slow_shares(logits: list[float], temperature: float, top_k: int, top_p: float) -> list[float]:
    """Temperature, top-k and top-p by the book, in double precision."""
    weights = [math.exp(logit / temperature) for logit in logits]
    ranking = sorted(range(len(logits)), key=lambda i: (-logits[i], i))
    kept = ranking[:top_k] if top_k else ranking
    mass = sum(weights[i] for i in kept)
    nucleus, reached = [], 0.0
    for i in kept:
        if reached >= top_p:
            break
        nucleus.append(i)
        reached += weights[i] / mass
    mass = sum(weights[i] for i in nucleus)
    return [weights[i] / mass if i in nucleus else 0.0 for i in range(len(logits))]


SETTINGS = [
    (1.0, 0, 1.0),
    (0.5, 0, 1.0),
    (2.0, 3, 1.0),
    (1.0, 0, 0.7),
    (0.7, 5, 0.6),
    (1.0, 1, 1.0),
    (1.0, 0, 1e-9),
    (1.0, 8, 1.0),
]


@pytest.mark.parametrize(("temperature", "top_k", "top_p"), SETTINGS)
def test_sampling_inverts_the_cdf(temperature, top_k, top_p):
    generator = torch.Generator().manual_seed(3)
    logits = torch.randn(20, 8, generator=generator)
    uniforms = torch.rand(20, generator=generator)
    codes = sample_codes(
        logits, uniforms, Sampling(temperature=temperature, top_k=top_k, top_p=top_p)
    )
    for row, uniform, code in zip(logits.tolist(), uniforms.tolist(), codes.tolist(), strict=True):
        total = 0.0
        shares = slow_shares(row, temperature, top_k, top_p)
        expected = -1
        while total <= uniform:
            expected += 1
            total += shares[expected]
        assert code == expected


def test_ties_keep_the_lower_codes_and_no_more_than_top_k():
    flat = torch.zeros(1, 6)
    assert truncate(flat, top_k=2).isfinite()[0].tolist() == [True, True] + [False] * 4
    large = torch.zeros(2, 5000)
    assert truncate(large, top_k=700).isfinite().equal(torch.arange(5000).lt(700).expand(2, -1))
    # Shares of 1/4, exact in floating point: two of them reach 1/2.
    four = torch.tensor([[-math.inf, 0.0, 0.0, -math.inf, 0.0, 0.0]])
    assert truncate(four, top_p=0.5).isfinite()[0].nonzero()[:, 0].tolist() == [1, 2]
    assert truncate(four, top_p=0.75).isfinite()[0].nonzero()[:, 0].tolist() == [1, 2, 4]
    # top_p counts shares of what top_k leaves.
    assert truncate(flat, top_k=4, top_p=0.5).isfinite()[0].nonzero()[:, 0].tolist() == [0, 1]


def test_the_ends_of_the_scale_hit_codes_that_have_probability():
    logits = torch.full((3, 5), -math.inf)
    logits[:, 1] = 0.3
    logits[:, 3] = 0.1
    largest = 1 - 2**-24
    ends = torch.tensor([0.0, largest, 1.0])
    assert sample_codes(logits, ends, Sampling()).tolist() == [1, 3, 3]
    # The likeliest code, even where dividing by the temperature would overflow.
    cold, uniforms = Sampling(temperature=1e-38), torch.full((3,), 0.9)
    assert sample_codes(logits * 1000, uniforms, cold).tolist() == [1, 1, 1]


def test_frequencies_follow_the_model():
    count = 40_000
    logits = torch.tensor([1.0, -1.0, 0.0, 2.0, -3.0, 0.5, 0.5, -0.2])
    uniforms = candidate_uniforms(seed=5, candidate=0, count=count)
    codes = sample_codes(logits.expand(count, -1), uniforms, Sampling(temperature=1.5))
    expected = (logits / 1.5).softmax(dim=0) * count
    chi_square = ((codes.bincount(minlength=8) - expected) ** 2 / expected).sum()
    assert chi_square < 24.3  # 7 degrees of freedom, 1 in 1,000


@pytest.fixture(scope="module")
def model() -> Transformer:
    return build(depth=3)


def test_a_seed_names_an_image_whatever_the_batch(model):
    tokens, _ = inputs(model)
    whole = sample(model, tokens, candidates=5, seed=7)
    assert whole.codes.shape == (10, 12)
    assert len(whole.codes[:5].unique(dim=0)) == 5
    for batch_size in (1, 2, 3, 7):
        part = sample(model, tokens, candidates=5, seed=7, batch_size=batch_size)
        assert torch.equal(part.codes, whole.codes)
        torch.testing.assert_close(part.log_likelihood, whole.log_likelihood)
    # Fewer candidates are the first of the many; one caption is as it was beside another.
    assert torch.equal(sample(model, tokens[1:], candidates=2, seed=7).codes, whole.codes[5:7])
    later = sample(model, tokens, candidates=2, first=3, seed=7).codes
    assert torch.equal(later, whole.codes[[3, 4, 8, 9]])
    both = sample(model, tokens, candidates=1, seed=(3, 7)).codes
    assert torch.equal(both[1], whole.codes[5])
    assert torch.equal(both[0], sample(model, tokens[:1], candidates=1, seed=3).codes[0])
    assert not torch.equal(both[0], whole.codes[0])


def test_each_code_has_a_number_of_its_own():
    model = build()
    for parameter in model.image_head.parameters():
        parameter.data.zero_()
    tokens, codes = inputs(model, batch=1)
    for prefix in (0, 4):  # a prefix does not move the numbers of the codes after it
        sampled = sample(model, tokens, candidates=3, seed=9, given=codes[0, :prefix]).codes
        for k in range(3):
            expected = (candidate_uniforms(9, k, 12) * 13).floor().long()
            assert torch.equal(sampled[k, prefix:], expected[prefix:])


def test_candidates_never_share_their_numbers():
    firsts = {
        tuple(candidate_uniforms(seed, k, 2).tolist())
        for seed in (0, 1, -1, 2**70)
        for k in range(500)
    }
    assert len(firsts) == 2000
    # What a seed samples is part of the interface: it must not change with a release.
    first, last = candidate_uniforms(0, 0, 2).tolist(), candidate_uniforms(12, 511, 1).tolist()
    assert first + last == pytest.approx([0.488434911, 0.228890359, 0.706347942])


@torch.inference_mode()
def test_likelihood_is_the_models_own_at_temperature_one(model):
    tokens, codes = inputs(model)
    prefix = codes[0, :4]
    sampled = sample(
        model, tokens, candidates=3, temperature=0.6, top_k=5, given=prefix, batch_size=4
    )
    assert torch.equal(sampled.codes[:, :4], prefix.expand(6, -1))
    _, logits = model.logits(tokens.repeat_interleave(3, dim=0), sampled.codes)
    each = logits.log_softmax(dim=-1).gather(-1, sampled.codes[..., None])[..., 0]
    torch.testing.assert_close(sampled.log_likelihood, each[:, 4:].sum(dim=1))


@torch.inference_mode()
def test_top_1_takes_the_likeliest_code_every_time(model):
    tokens, _ = inputs(model)
    sampled = sample(model, tokens, top_k=1)
    _, logits = model.logits(tokens, sampled.codes)
    assert torch.equal(logits.argmax(dim=-1), sampled.codes)


@torch.inference_mode()
@pytest.mark.parametrize(("prefix", "batch_size"), [(0, 3), (5, 3), (5, 1), (0, 8)])
def test_guided_sampling_is_that_of_full_passes_with_and_without_the_caption(prefix, batch_size):
    model = build(depth=3, text_drop=0.2)
    tokens, codes = inputs(model)
    kept = codes[0, :prefix]
    options = {"given": kept, "batch_size": batch_size}
    sampled = sample(model, tokens, candidates=2, top_k=1, guidance_scale=3.0, **options)
    repeated = tokens.repeat_interleave(2, dim=0)
    _, own = model.logits(repeated, sampled.codes)
    _, free = model.logits(torch.full_like(repeated, PADDING), sampled.codes)
    guided = free + 3 * (own - free)
    assert torch.equal(guided.argmax(dim=-1)[:, prefix:], sampled.codes[:, prefix:])
    assert not torch.equal(own.argmax(dim=-1), sampled.codes)
    each = own.log_softmax(dim=-1).gather(-1, sampled.codes[..., None])[..., 0]
    torch.testing.assert_close(sampled.log_likelihood, each[:, prefix:].sum(dim=1))
    torch.testing.assert_close(guide(torch.cat([own, free]), 1.0), own)


@torch.inference_mode()
def test_given_codes_stay_wherever_they_are_and_the_rest_is_sampled_from_what_comes_before(model):
    tokens, codes = inputs(model)
    corner = codes[0].clone().view(3, 4)  # a rectangle down to the right corner is sampled anew
    corner[1:, 2:] = TO_SAMPLE
    sampled = sample(model, tokens, candidates=2, seed=4, given=corner.flatten(), batch_size=3)
    grids = sampled.codes.view(4, 3, 4)
    assert torch.equal(grids[:, corner != TO_SAMPLE], corner[corner != TO_SAMPLE].expand(4, -1))
    _, logits = model.logits(tokens.repeat_interleave(2, dim=0), sampled.codes)
    each = logits.log_softmax(dim=-1).gather(-1, sampled.codes[..., None])[..., 0]
    torch.testing.assert_close(
        sampled.log_likelihood, each[:, corner.flatten() == TO_SAMPLE].sum(dim=1)
    )
    for row in range(4):
        uniforms = candidate_uniforms(4, row % 2, 12)
        for place in (corner.flatten() == TO_SAMPLE).nonzero()[:, 0].tolist():
            expected = sample_codes(
                logits[row, place : place + 1], uniforms[place : place + 1], Sampling()
            )
            assert sampled.codes[row, place] == expected


def test_an_image_given_whole_is_returned(model):
    tokens, codes = inputs(model)
    whole = sample(model, tokens, candidates=2, given=codes[1])
    assert torch.equal(whole.codes, codes[1].expand(4, -1))
    assert not whole.log_likelihood.any()
    without_end = sample(model, tokens, candidates=1, seed=2, given=codes[1, :-1]).codes
    assert torch.equal(without_end[:, :-1], codes[1, :-1].expand(2, -1))


def test_guidance_of_1_is_none_and_0_forgets_the_caption():
    model = build(depth=2, text_drop=0.2)
    tokens, _ = inputs(model)
    plain = sample(model, tokens, candidates=2, seed=3)
    assert torch.equal(
        sample(model, tokens, candidates=2, seed=3, guidance_scale=1.0).codes, plain.codes
    )
    free = sample(model, tokens, candidates=2, seed=3, guidance_scale=0.0).codes
    expected = sample(model, torch.full_like(tokens, PADDING), candidates=2, seed=3).codes
    assert torch.equal(free, expected)
    alone = sample(model, tokens[:1], seed=3, guidance_scale=0.0).codes
    assert torch.equal(alone, expected[:1])


def test_dropout_is_off_while_sampling_and_on_again_after():
    model = build(dropout=0.5).train()
    tokens, _ = inputs(model)
    assert torch.equal(sample(model, tokens).codes, sample(model, tokens).codes)
    assert model.training


def test_progress_reaches_the_end(model):
    seen = []
    tokens, codes = inputs(model)
    batches = generate_batches(
        *(model, tokens, Sampling(candidates=3, batch_size=4), codes[0, :2]),
        progress=lambda at: seen.append(
            (at.step, at.steps, len(at.codes), int((at.codes < 0).sum()))
        ),
    )
    assert [len(part.codes) for part in batches] == [3, 3]
    assert [one[:2] for one in seen] == [(done, 20) for done in range(1, 21)]
    assert [one[2] for one in seen] == [3] * 20
    assert [one[3] for one in seen] == 2 * [3 * left for left in range(9, -1, -1)]


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ({"temperature": 0.0}, "temperature is 0.0"),
        ({"temperature": math.nan}, "temperature is nan"),
        ({"temperature": math.inf}, "temperature is inf"),
        ({"top_k": -1}, "top_k is -1"),
        ({"top_k": 14}, "top_k is 14: write 0 .off. or 1 to 13"),
        ({"top_p": 0.0}, "top_p is 0.0"),
        ({"top_p": 1.1}, "top_p is 1.1"),
        ({"guidance_scale": -1.0}, "guidance_scale is -1.0"),
        ({"likelihood_weight": -0.1}, "likelihood_weight is -0.1"),
        ({"likelihood_weight": math.inf}, "likelihood_weight is inf"),
        ({"guidance_scale": 2.0}, "trained without model.text_drop"),
        ({"candidates": 0}, "candidates is 0"),
        ({"batch_size": 0}, "batch_size is 0"),
        ({"first": -1}, "first is -1"),
        ({"given": torch.zeros(13, dtype=torch.long)}, r"given codes of shape \[13\]"),
        ({"given": torch.tensor([0, 13])}, "given code 13"),
        ({"given": torch.tensor([-2])}, "given code -2"),
        ({"seed": (1, 2, 3)}, "3 seeds for 2 captions"),
        ({"tokens": torch.tensor([[0, 11, 1]])}, "text token 11"),
        ({"tokens": torch.tensor([[0, -2, 1]])}, "text token -2"),
        ({"tokens": torch.zeros(1, 4, dtype=torch.long)}, r"text of shape \[1, 4\]"),
    ],
)
def test_bad_values_stop_before_the_first_code(model, monkeypatch, bad, message):
    def never(*_):
        raise AssertionError("sampling has begun")

    monkeypatch.setattr(generate_module, "prefill", never)
    tokens, _ = inputs(model)
    with pytest.raises(UserError, match=message):
        sample(model, **{"tokens": tokens, **bad})


def test_damaged_weights_are_reported():
    model = build()
    model.image_head.weight.data[0, 0] = math.nan
    with pytest.raises(UserError, match="not finite"):
        sample(model, inputs(model)[0])
