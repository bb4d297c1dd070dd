"""The parts of a layer beside the paper's: formulas, cached decoding, gradients, sizes."""

import math

import pytest
import torch
from builders import build, inputs, tiny
from torch.nn import functional as F

from dalle.generate import decode_step, prefill
from dalle.layers import gated_silu, mlp_widths, rotary_angles, rotate, rotation, squared_relu
from dalle.likelihood import log_likelihood
from dalle.precision import in_precision
from dalle.stream import Stream
from dalle.transformer import Block, Transformer
from dalle_base.common.errors import UserError
from dalle_base.training.decay import decay_groups

ALL = {"norm": "rms", "qk_norm": True, "activation": "swiglu", "positions": "rotary"}
OPTIONS = [{name: value} for name, value in ALL.items()]
OPTIONS += [{"activation": "squared_relu"}, ALL]


@pytest.mark.parametrize("changes", OPTIONS, ids=str)
@torch.inference_mode()
def test_cached_decoding_is_the_full_forward_pass(changes) -> None:
    layers = ["row", "column", "conv", "full"]
    model = build(depth=4, layers=layers, rows=4, columns=3, **changes).eval()
    tokens, codes = inputs(model)
    expected = model.logits(tokens, codes)[1]
    for prefix in (0, 1, 7):
        logits, slots = prefill(model, tokens, codes[:, :prefix])
        torch.testing.assert_close(logits, expected[:, prefix], rtol=0, atol=2e-5)
        for j in range(prefix, codes.shape[1] - 1):
            logits = decode_step(model, codes[:, j], torch.tensor([j]), slots)
            torch.testing.assert_close(logits, expected[:, j + 1], rtol=0, atol=2e-5)


@pytest.mark.parametrize("changes", OPTIONS, ids=str)
def test_each_option_changes_the_model_and_every_parameter_learns(changes) -> None:
    model = build(**changes)
    tokens, codes = inputs(model)
    model.loss(tokens, codes).total.backward()
    for name, parameter in model.named_parameters():
        if name != "text_padding":  # no position of these captions is empty
            assert parameter.grad is not None, name
            assert parameter.grad.abs().sum() > 0, name
    grouped = [p for group in decay_groups(model, 0.1) for p in group["params"]]
    assert {id(p) for p in grouped} == {id(p) for p in model.parameters()}
    matrices = {id(w) for w in model.hidden_weights()}
    assert all(p.ndim == 2 for p in model.parameters() if id(p) in matrices)
    plain = build()
    shared = {k: v for k, v in plain.state_dict().items() if k in model.state_dict()}
    if "activation" not in changes:
        model.load_state_dict({**model.state_dict(), **shared})
        assert not torch.allclose(model.logits(tokens, codes)[1], plain.logits(tokens, codes)[1])


def test_outputs_depend_on_nothing_they_predict() -> None:
    model = build(depth=3, layers=["row", "column", "full"], **ALL).eval()
    tokens, codes = inputs(model, batch=1)
    before = model.logits(tokens, codes)[1]
    for j in range(model.stream.image_length):
        changed = codes.clone()
        changed[0, j] = (changed[0, j] + 1) % model.config.image_vocab
        after = model.logits(tokens, changed)[1]
        torch.testing.assert_close(after[:, : j + 1], before[:, : j + 1], rtol=0, atol=1e-6)
        assert (after[:, j + 1 : j + 2] != before[:, j + 1 : j + 2]).any(dim=-1).all()


def test_rotations_are_complex_products() -> None:
    x = torch.randn(2, 3, 5, 8, dtype=torch.float64)
    angles = torch.randn(5, 4, dtype=torch.float64)
    turned = torch.complex(x[..., :4], x[..., 4:]) * torch.exp(1j * angles)
    expected = torch.cat([turned.real, turned.imag], dim=-1)
    torch.testing.assert_close(rotate(x, rotation(angles)), expected)


@pytest.mark.parametrize("grid", [(3, 4), (5, 2)])
def test_rotary_scores_depend_on_distances_in_rows_and_columns_alone(grid) -> None:
    stream = Stream(3, *grid)
    angles = rotary_angles(stream, 16).double()
    assert angles.shape == (stream.length, 8)
    turns = rotation(angles)
    q, k = torch.randn(2, 16, dtype=torch.float64)
    every = rotate(q.expand(1, 1, stream.length, -1), turns)[0, 0]
    scores = every @ rotate(k.expand(1, 1, stream.length, -1), turns)[0, 0].T
    of: dict[tuple[int, int], float] = {}
    rows, columns = grid
    codes = range(rows * columns - 1)
    for i in codes:
        for j in codes:
            apart = (i // columns - j // columns, i % columns - j % columns)
            score = float(scores[stream.text_inputs + i, stream.text_inputs + j])
            assert of.setdefault(apart, score) == pytest.approx(score, abs=1e-5)
    # Rows are told from columns, and before from behind.
    assert len({round(score, 4) for score in of.values()}) == len(of)
    text = {round(float(scores[-1, t]), 6) for t in range(stream.text_inputs)}
    assert len(text) == stream.text_inputs


def test_activations_are_what_the_formulas_say() -> None:
    x = torch.randn(3, 10, dtype=torch.float64)
    torch.testing.assert_close(squared_relu(x), x.clamp(min=0) ** 2)
    gate = x[:, :5] / (1 + torch.exp(-x[:, :5]))
    torch.testing.assert_close(gated_silu(x), gate * x[:, 5:])
    written, read = mlp_widths("swiglu", 384)
    assert (written, read) == (2048, 1024)
    assert 384 * (written + read) == sum(384 * width for width in mlp_widths("gelu", 384))


def test_queries_and_keys_are_normalised_in_each_head() -> None:
    model = build(depth=1, layers=["full"], qk_norm=True)
    block = model.get_submodule("blocks.0")
    assert isinstance(block, Block)
    x = torch.randn(1, model.stream.length, model.config.d_model)
    seen = {}

    def attend(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        seen.update(q=q, k=k)
        return v

    block.attention(x, attend, None)
    plain = block.attention.qkv(x)[..., : 2 * 8].unflatten(-1, (2, 2, 4))
    for number, name in enumerate("qk"):
        each = plain[0, :, number]
        gain = block.attention.qk_norms[number].weight
        expected = each / each.square().mean(dim=-1, keepdim=True).add(1e-6).sqrt() * gain
        torch.testing.assert_close(seen[name][0].transpose(0, 1), expected, rtol=1e-4, atol=1e-4)


def test_fewer_bits_change_the_likelihood_by_little() -> None:
    torch.manual_seed(0)
    model = Transformer(tiny(head_width=16, d_model=32, **ALL)).eval().requires_grad_(False)
    tokens, codes = inputs(model, batch=8)
    expected = log_likelihood(model, tokens, codes)
    for precision in ("bfloat16", "int8"):
        got = log_likelihood(in_precision(model, precision), tokens, codes)
        torch.testing.assert_close(got, expected, rtol=0.005, atol=0)


def test_rotations_stay_exact_in_bfloat16_however_late_the_position() -> None:
    model = build(positions="rotary", text_length=250)
    expected = model.turns
    assert expected is not None
    low = in_precision(model, "bfloat16").turns
    assert low is not None
    torch.testing.assert_close(low.float(), expected, rtol=0, atol=0.004)


def test_recomputed_activations_change_no_gradient() -> None:
    gradients = []
    for recompute in (False, True):
        model = build(recompute=recompute, **ALL)
        model.loss(*inputs(model)).total.backward()
        gradients.append([parameter.grad for parameter in model.parameters()])
    for one, other in zip(*gradients, strict=True):
        torch.testing.assert_close(one, other)


def test_root_mean_squares() -> None:
    model = build(norm="rms")
    x = torch.randn(2, 12)
    gain = model.get_parameter("norm.weight")
    expected = x / x.square().mean(dim=-1, keepdim=True).sqrt() * gain
    torch.testing.assert_close(model.norm(x), expected)
    assert not math.isclose(float(F.layer_norm(x, (12,))[0, 0]), float(F.rms_norm(x, (12,))[0, 0]))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"norm": "batch"}, "norm is 'batch': use one of layer, rms"),
        ({"activation": "relu"}, "activation is 'relu': use one of gelu, squared_relu, swiglu"),
        ({"positions": "none"}, "positions is 'none': use one of learned, rotary"),
        ({"positions": "rotary", "head_width": 6}, "write a multiple of 4"),
    ],
)
def test_what_is_no_option_is_named(changes, message) -> None:
    with pytest.raises(UserError, match=message):
        tiny(**changes).validate()
