"""The compiled decoding step against the eager one; fewer bits against all of them."""

import pytest
import torch
from builders import build, inputs

from dalle.compiled import SETTINGS, compile_step
from dalle.config import Sampling, TransformerConfig
from dalle.generate import eager_step, generate, prefill
from dalle.likelihood import log_likelihood
from dalle.precision import Int8Linear, in_precision
from dalle.transformer import Transformer
from dalle_base.common.errors import UserError


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["float32", "int8"])
def test_a_compiled_step_is_the_eager_one_and_one_program_for_all_codes(
    precision, monkeypatch
) -> None:
    monkeypatch.setitem(SETTINGS, "max_autotune", False)  # it takes long
    torch._dynamo.reset()
    layers = ["row", "column", "conv"] if precision == "float32" else ["row"]
    model = build(depth=len(layers), layers=layers, d_model=32).eval().requires_grad_(False)
    model = in_precision(model, precision)
    tokens, codes = inputs(model)
    eager, compiled = eager_step(model), compile_step(model)
    with torch.inference_mode():
        slots = [[each.repeat(2) for each in prefill(model, tokens)[1]] for _ in range(2)]
        share = 1e-4 if precision == "float32" else 0.05
        for j in range(codes.shape[1] - 1):
            some, index = codes[:, j].repeat_interleave(2), torch.tensor([j])
            expected = eager(some, index, slots[0])
            got = compiled(some, index, slots[1])
            tolerance = share * expected.abs().max().item()
            torch.testing.assert_close(got, expected, rtol=0, atol=tolerance)
    if precision == "float32":
        sampling = Sampling(candidates=2, seed=2)
        with torch.compiler.set_stance("fail_on_recompile"):
            sampled = generate(model, tokens, sampling, step=compiled)
        assert torch.equal(sampled.codes, generate(model, tokens, sampling).codes)


def wide(**changes) -> Transformer:
    torch.manual_seed(0)
    options = {"conv": {"kernel": 3}}
    config = TransformerConfig(20, 30, 4, 3, 4, 2, 2, 16, 64, pattern_options=options, **changes)
    return Transformer(config).eval().requires_grad_(False)


@pytest.mark.parametrize("width", [64, 40])
def test_integers_are_within_their_step_of_the_weights(width) -> None:
    torch.manual_seed(0)
    linear = torch.nn.Linear(width, 24)
    rounded = Int8Linear(linear)
    x = torch.randn(3, 5, width)
    error = rounded(x.bfloat16()).float() - linear(x)
    assert error.shape == (3, 5, 24)
    assert error.norm() < 0.015 * linear(x).norm()
    steps = linear.weight.abs().amax(dim=1, keepdim=True) / 127
    weight = rounded.weight * rounded.scale.float()[:, None]
    assert ((weight - linear.weight).abs() <= 0.51 * steps + 0.005 * weight.abs()).all()


@pytest.mark.parametrize("precision", ["bfloat16", "int8"])
def test_fewer_bits_change_the_likelihood_by_little_and_the_model_not_at_all(precision) -> None:
    model = wide()
    tokens, codes = torch.randint(0, 20, (8, 4)), torch.randint(0, 30, (8, 12))
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    small = in_precision(model, precision)
    expected, got = log_likelihood(model, tokens, codes), log_likelihood(small, tokens, codes)
    torch.testing.assert_close(got, expected, rtol=0.005, atol=0)
    assert not torch.equal(got, expected)
    assert small.cache_bytes(1, 1) * 2 == model.cache_bytes(1, 1)
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
    sampled = generate(small, tokens, Sampling(candidates=2, seed=1))
    torch.testing.assert_close(
        sampled.log_likelihood,
        log_likelihood(small, tokens.repeat_interleave(2, dim=0), sampled.codes),
        rtol=0.01,
        atol=0.1,
    )


def test_an_unknown_precision_is_refused() -> None:
    with pytest.raises(UserError, match="use one of float32, bfloat16, int8"):
        in_precision(wide(), "int4")
