"""Drawing codes: the cache against full passes, sampling against slow loops, seeds that name."""

import math

import pytest
import torch
from test_transformer import build, inputs

from dalle import generate as generate_module
from dalle.decode import decode_one, prefill
from dalle.generate import DRAW, generate
from dalle.patterns import PATTERNS
from dalle.sampling import candidate_uniforms, guide, sample_token, truncate
from dalle.text import PADDING
from dalle.transformer import Transformer
from training.errors import UserError


@pytest.mark.parametrize(("rows", "columns", "text_length"), [(3, 4, 3), (5, 2, 1), (1, 6, 2)])
@pytest.mark.parametrize("prefix", [0, 1, 5])
@pytest.mark.parametrize("name", [*PATTERNS, "paper"])
@torch.inference_mode()
def test_cached_decoding_is_a_full_pass(name, rows, columns, text_length, prefix):
    layers = [] if name == "paper" else [name] * 3
    sizes = {"rows": rows, "columns": columns, "text_length": text_length}
    model = build(depth=3, layers=layers, **sizes)
    text, codes = inputs(model)
    text[1, -1] = PADDING
    _, expected = model.logits(text, codes)
    logits, cache = prefill(model, text, codes[:, :prefix])
    assert cache.length == text_length + 1 + prefix
    torch.testing.assert_close(logits, expected[:, prefix], rtol=0, atol=1e-5)
    for j in range(prefix, model.stream.image_length - 1):
        logits = decode_one(model, codes[:, j], cache)
        torch.testing.assert_close(logits, expected[:, j + 1], rtol=0, atol=1e-5)


@torch.inference_mode()
def test_candidates_go_on_from_their_own_caption_and_leave_the_first_cache_alone():
    model = build()
    text, codes = inputs(model)
    _, cache = prefill(model, text)
    fork = cache.repeat(3)
    index = torch.tensor([0, 0, 0, 1, 1, 1])
    branch = torch.stack([codes[row].roll(k) for k, row in enumerate(index)])
    _, expected = model.logits(text[index], branch)
    for j in range(3):
        logits = decode_one(model, branch[:, j], fork)
        torch.testing.assert_close(logits, expected[:, j + 1], rtol=0, atol=1e-5)
    _, expected = model.logits(text, codes)
    logits = decode_one(model, codes[:, 0], cache)
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
    codes = sample_token(logits, uniforms, temperature, top_k, top_p)
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
    assert sample_token(logits, torch.tensor([0.0, largest, 1.0])).tolist() == [1, 3, 3]
    # The likeliest code, even where dividing by the temperature would overflow.
    assert sample_token(logits * 1000, torch.full((3,), 0.9), temperature=1e-38).tolist() == [
        1,
        1,
        1,
    ]


def test_frequencies_follow_the_model():
    draws = 40_000
    logits = torch.tensor([1.0, -1.0, 0.0, 2.0, -3.0, 0.5, 0.5, -0.2])
    uniforms = candidate_uniforms(seed=5, candidate=0, count=draws)
    codes = sample_token(logits.expand(draws, -1), uniforms, temperature=1.5)
    expected = (logits / 1.5).softmax(dim=0) * draws
    chi_square = ((codes.bincount(minlength=8) - expected) ** 2 / expected).sum()
    assert chi_square < 24.3  # 7 degrees of freedom, 1 in 1,000


@pytest.fixture(scope="module")
def model() -> Transformer:
    return build(depth=3)


def test_a_seed_names_a_picture_whatever_the_batch(model):
    text, _ = inputs(model)
    whole = generate(model, text, candidates=5, seed=7)
    assert whole.codes.shape == (10, 12)
    assert len(whole.codes[:5].unique(dim=0)) == 5
    for batch_size in (1, 2, 3, 7):
        part = generate(model, text, candidates=5, seed=7, batch_size=batch_size)
        assert torch.equal(part.codes, whole.codes)
        torch.testing.assert_close(part.log_likelihood, whole.log_likelihood)
    # Fewer candidates are the first of the many; one caption is as it was beside another.
    assert torch.equal(generate(model, text[1:], 2, seed=7).codes, whole.codes[5:7])
    both = generate(model, text, 1, seed=[3, 7]).codes
    assert torch.equal(both[1], whole.codes[5])
    assert torch.equal(both[0], generate(model, text[:1], 1, seed=3).codes[0])
    assert not torch.equal(both[0], whole.codes[0])


def test_each_code_has_a_number_of_its_own():
    model = build()
    for parameter in model.image_head.parameters():
        parameter.data.zero_()
    text, codes = inputs(model, batch=1)
    for prefix in (0, 4):  # a prefix does not move the numbers of the codes after it
        drawn = generate(model, text, 3, seed=9, given=codes[0, :prefix]).codes
        for k in range(3):
            expected = (candidate_uniforms(9, k, 12) * 13).floor().long()
            assert torch.equal(drawn[k, prefix:], expected[prefix:])


def test_candidates_never_share_their_numbers():
    firsts = {
        tuple(candidate_uniforms(seed, k, 2).tolist())
        for seed in (0, 1, -1, 2**70)
        for k in range(500)
    }
    assert len(firsts) == 2000
    # What a seed draws is part of the interface: it must not change with a release.
    first, last = candidate_uniforms(0, 0, 2).tolist(), candidate_uniforms(12, 511, 1).tolist()
    assert first + last == pytest.approx([0.488434911, 0.228890359, 0.706347942])


@torch.inference_mode()
def test_likelihood_is_the_models_own_at_temperature_one(model):
    text, codes = inputs(model)
    prefix = codes[0, :4]
    drawn = generate(model, text, 3, temperature=0.6, top_k=5, given=prefix, batch_size=4)
    assert torch.equal(drawn.codes[:, :4], prefix.expand(6, -1))
    _, logits = model.logits(text.repeat_interleave(3, dim=0), drawn.codes)
    each = logits.log_softmax(dim=-1).gather(-1, drawn.codes[..., None])[..., 0]
    torch.testing.assert_close(drawn.log_likelihood, each[:, 4:].sum(dim=1))


@torch.inference_mode()
def test_top_1_takes_the_likeliest_code_every_time(model):
    text, _ = inputs(model)
    drawn = generate(model, text, top_k=1)
    _, logits = model.logits(text, drawn.codes)
    assert torch.equal(logits.argmax(dim=-1), drawn.codes)


@torch.inference_mode()
@pytest.mark.parametrize(("prefix", "batch_size"), [(0, 3), (5, 3), (5, 1), (0, 8)])
def test_guided_drawing_is_that_of_full_passes_with_and_without_the_caption(prefix, batch_size):
    model = build(depth=3, text_drop=0.2)
    text, codes = inputs(model)
    kept = codes[0, :prefix]
    options = {"given": kept, "batch_size": batch_size}
    drawn = generate(model, text, 2, top_k=1, guidance_scale=3.0, **options)
    repeated = text.repeat_interleave(2, dim=0)
    _, own = model.logits(repeated, drawn.codes)
    _, free = model.logits(torch.full_like(repeated, PADDING), drawn.codes)
    guided = free + 3 * (own - free)
    assert torch.equal(guided.argmax(dim=-1)[:, prefix:], drawn.codes[:, prefix:])
    assert not torch.equal(own.argmax(dim=-1), drawn.codes)
    each = own.log_softmax(dim=-1).gather(-1, drawn.codes[..., None])[..., 0]
    torch.testing.assert_close(drawn.log_likelihood, each[:, prefix:].sum(dim=1))
    torch.testing.assert_close(guide(torch.cat([own, free]), 1.0), own)


@torch.inference_mode()
def test_given_codes_stay_wherever_they_are_and_the_rest_is_drawn_from_what_comes_before(model):
    text, codes = inputs(model)
    corner = codes[0].clone().view(3, 4)  # a rectangle down to the right corner is drawn anew
    corner[1:, 2:] = DRAW
    drawn = generate(model, text, 2, seed=4, given=corner.flatten(), batch_size=3)
    grids = drawn.codes.view(4, 3, 4)
    assert torch.equal(grids[:, corner != DRAW], corner[corner != DRAW].expand(4, -1))
    _, logits = model.logits(text.repeat_interleave(2, dim=0), drawn.codes)
    each = logits.log_softmax(dim=-1).gather(-1, drawn.codes[..., None])[..., 0]
    torch.testing.assert_close(drawn.log_likelihood, each[:, corner.flatten() == DRAW].sum(dim=1))
    for row in range(4):
        uniforms = candidate_uniforms(4, row % 2, 12)
        for place in (corner.flatten() == DRAW).nonzero()[:, 0].tolist():
            expected = sample_token(logits[row, place : place + 1], uniforms[place : place + 1])
            assert drawn.codes[row, place] == expected


def test_a_picture_given_whole_is_returned(model):
    text, codes = inputs(model)
    whole = generate(model, text, 2, given=codes[1])
    assert torch.equal(whole.codes, codes[1].expand(4, -1))
    assert not whole.log_likelihood.any()
    without_end = generate(model, text, 1, seed=2, given=codes[1, :-1]).codes
    assert torch.equal(without_end[:, :-1], codes[1, :-1].expand(2, -1))


def test_guidance_of_1_is_none_and_0_forgets_the_caption():
    model = build(depth=2, text_drop=0.2)
    text, _ = inputs(model)
    plain = generate(model, text, 2, seed=3)
    assert torch.equal(generate(model, text, 2, seed=3, guidance_scale=1.0).codes, plain.codes)
    free = generate(model, text, 2, seed=3, guidance_scale=0.0).codes
    expected = generate(model, torch.full_like(text, PADDING), 2, seed=3).codes
    assert torch.equal(free, expected)
    alone = generate(model, text[:1], seed=3, guidance_scale=0.0).codes
    assert torch.equal(alone, expected[:1])


def test_dropout_is_off_while_drawing_and_on_again_after():
    model = build(dropout=0.5).train()
    text, _ = inputs(model)
    assert torch.equal(generate(model, text).codes, generate(model, text).codes)
    assert model.training


def test_progress_reaches_the_end(model):
    steps = []
    text, codes = inputs(model)
    generate(
        *(model, text, 3),
        given=codes[0, :2],
        batch_size=4,
        progress=lambda at: steps.append((at.step, at.steps, at.first, int((at.codes < 0).sum()))),
    )
    assert [one[:2] for one in steps] == [(done, 20) for done in range(1, 21)]
    assert [one[2] for one in steps] == [0] * 10 + [3] * 10
    assert [one[3] for one in steps] == 2 * [3 * left for left in range(9, -1, -1)]


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
        ({"guidance_scale": 2.0}, "trained without model.text_drop"),
        ({"candidates": 0}, "candidates is 0"),
        ({"batch_size": 0}, "batch_size is 0"),
        ({"given": torch.zeros(13, dtype=torch.long)}, r"given codes of shape \[13\]"),
        ({"given": torch.tensor([0, 13])}, "given code 13"),
        ({"given": torch.tensor([-2])}, "given code -2"),
        ({"seed": [1, 2, 3]}, "3 seeds for 2 captions"),
        ({"text": torch.tensor([[0, 11, 1]])}, "text token 11"),
        ({"text": torch.tensor([[0, -2, 1]])}, "text token -2"),
        ({"text": torch.zeros(1, 4, dtype=torch.long)}, r"text of shape \[1, 4\]"),
    ],
)
def test_bad_values_stop_before_the_first_code(model, monkeypatch, bad, message):
    def never(*_):
        raise AssertionError("drawing has begun")

    monkeypatch.setattr(generate_module, "prefill", never)
    text, _ = inputs(model)
    with pytest.raises(UserError, match=message):
        generate(model, **{"text": text, **bad})


def test_damaged_weights_are_reported():
    model = build()
    model.image_head.weight.data[0, 0] = math.nan
    with pytest.raises(UserError, match="not finite"):
        generate(model, inputs(model)[0])
