"""Every backend of attention against a product under the mask, in float64, on odd sizes."""

import warnings

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from dalle.attention import KERNELS, PatternAttention, candidates, choose
from dalle.attention.one_softmax import one_softmax_attention
from dalle.attention.structured import SCHEMES, StructuredKernel
from dalle.attention.two_part import two_part_attention
from dalle.config import TransformerConfig
from dalle.patterns import PATTERNS, make_pattern
from dalle.patterns.base import Blocks, Pattern
from dalle.stream import Stream
from dalle.transformer import Transformer
from dalle_base.common.errors import UserError

STRUCTURED = {"two parts": two_part_attention, "one softmax": one_softmax_attention}
GRIDS = [(4, 4), (3, 5), (5, 3), (1, 6), (6, 1), (7, 7), (1, 1)]


def make(name: str, kernel: int = 3) -> Pattern:
    return make_pattern(name, {"kernel": kernel} if name == "conv" else None)


def by_hand(pattern: Pattern, stream: Stream, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """softmax(QK'/sqrt(d)) V with the forbidden scores at minus infinity."""
    n = q.shape[2]
    scores = q @ k.transpose(2, 3) / q.shape[-1] ** 0.5
    mask = pattern.mask(stream)[:n, :n]
    return scores.masked_fill(~mask, -torch.inf).softmax(dim=-1) @ v


def with_gradients(attend, qkv: Tensor) -> tuple[Tensor, Tensor]:
    """The output for [3, B, H, n, D] and the gradient of an uneven function of it."""
    qkv = qkv.clone().requires_grad_()
    out = attend(*qkv)
    weights = torch.linspace(-1, 2, out.numel(), dtype=out.dtype).view_as(out)
    (out * weights).sum().backward()
    assert qkv.grad is not None
    return out.detach(), qkv.grad


def assert_same(backend: str, pattern: Pattern, stream: Stream, batch: int = 2, n: int = 0) -> None:
    n = n or stream.length
    torch.manual_seed(0)
    qkv = torch.randn(3, batch, 2, n, 8, dtype=torch.float64)
    with pytest.MonkeyPatch.context() as patch:
        if backend in STRUCTURED:  # whatever is fastest for the type
            patch.setitem(SCHEMES, qkv.dtype, STRUCTURED[backend])
        kernel = KERNELS["structured" if backend in STRUCTURED else backend](pattern, stream)
        got = with_gradients(kernel, qkv)
    expected = with_gradients(lambda *x: by_hand(pattern, stream, *x), qkv)
    for one, wanted in zip(got, expected, strict=True):
        torch.testing.assert_close(one, wanted, rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("grid", GRIDS)
@pytest.mark.parametrize("name", PATTERNS)
@pytest.mark.parametrize("backend", ["reference", *STRUCTURED])
def test_output_and_gradients_are_those_of_the_masked_product(backend, name, grid) -> None:
    for text_length, batch in ((1, 2), (5, 1)):
        assert_same(backend, make(name), Stream(text_length, *grid), batch)


STREAMS = given(
    backend=st.sampled_from(sorted(STRUCTURED)),
    name=st.sampled_from(sorted(PATTERNS)),
    text_length=st.integers(1, 9),
    rows=st.integers(1, 7),
    columns=st.integers(1, 7),
    reach=st.integers(0, 5),
    batch=st.integers(1, 3),
    data=st.data(),
)


@pytest.mark.parametrize("examples", [30, pytest.param(120, marks=pytest.mark.slow)])
def test_structured_is_exact_on_any_stream(examples) -> None:
    @settings(max_examples=examples, deadline=None)
    @STREAMS
    def run(backend, name, text_length, rows, columns, reach, batch, data) -> None:
        stream = Stream(text_length, rows, columns)
        n = data.draw(st.integers(1, stream.length), label="positions")
        assert_same(backend, make(name, 2 * reach + 1), stream, batch, n)

    run()


@pytest.mark.parametrize("scheme", STRUCTURED.values())
@pytest.mark.parametrize("name", PATTERNS)
def test_gradcheck(name, scheme, monkeypatch) -> None:
    monkeypatch.setitem(SCHEMES, torch.float64, scheme)
    stream = Stream(2, 2, 3)
    torch.manual_seed(0)
    inputs = [
        torch.randn(1, 1, stream.length, 4, dtype=torch.float64, requires_grad=True)
        for _ in range(3)
    ]
    assert torch.autograd.gradcheck(StructuredKernel(make(name), stream), inputs)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", PATTERNS)
@pytest.mark.parametrize("backend", ["reference", "structured"])
def test_half_precision_is_within_one_per_cent(backend, name, dtype) -> None:
    stream = Stream(5, 6, 7)
    torch.manual_seed(0)
    qkv = torch.randn(3, 2, 2, stream.length, 16).to(dtype)
    kernel = KERNELS[backend](make(name), stream)
    expected = with_gradients(lambda *x: by_hand(make(name), stream, *x), qkv.double())
    for got, wanted in zip(with_gradients(kernel, qkv), expected, strict=True):
        assert got.dtype == dtype
        assert (got.double() - wanted).norm() < 0.01 * wanted.norm()


@pytest.mark.parametrize("name", PATTERNS)
def test_flex_masks_and_forward_agree_with_the_reference(name) -> None:
    stream = Stream(5, 4, 6)
    kernel = KERNELS["flex"](make(name), stream)
    torch.manual_seed(0)
    q, k, v = torch.randn(3, 2, 2, stream.length, 16)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="flex_attention called without torch.compile")
        out = kernel(q, k, v)
    torch.testing.assert_close(out, by_hand(make(name), stream, q, k, v), rtol=1e-4, atol=1e-5)
    with pytest.raises(UserError, match="attention flex has no backward on cpu"):
        kernel(q.requires_grad_(), k, v)


def test_the_backend_is_chosen_by_size_sparsity_and_device() -> None:
    short, long = Stream(16, 8, 8), Stream(256, 32, 32)
    assert candidates(make("row"), short)[0] == "reference"
    assert "structured" not in candidates(make("row"), short)
    assert "structured" not in candidates(make("conv", 31), Stream(64, 16, 16))  # hardly sparse
    names = ["reference", "structured", "flex"]
    assert candidates(make("row"), long)[:2] == names[:2]
    cpu = torch.device("cpu")
    assert choose(names, cpu) == "structured"
    assert choose(names[:1], cpu) == "reference"
    assert choose(names, torch.device("cuda")) == "flex"
    assert choose(names, torch.device("mps")) == "reference"
    attention = PatternAttention(make("row"), long)
    q = torch.randn(1, 1, long.length, 8)
    assert torch.equal(attention(q, q, q), attention.kernels["structured"](q, q, q))


def test_a_backend_that_does_not_exist_is_refused_with_those_that_do() -> None:
    for build in (
        lambda: PatternAttention(make("row"), Stream(1, 2, 2), "flash"),
        lambda: Transformer(TransformerConfig(8, 8, 2, 2, 2, 1, 1, 8, 8, attention="flash")),
    ):
        with pytest.raises(UserError, match="use one of auto, reference, structured, flex"):
            build()


class Diagonal(Pattern):
    """The codes up and to the left, with blocks that a test sets."""

    name = "diagonal"
    cut: Blocks | None = None

    def sees(self, query: Tensor, key: Tensor, stream: Stream) -> Tensor:
        return (query - key) % (stream.columns + 1) == 0

    def blocks(self, stream: Stream) -> Blocks | None:
        return self.cut


def test_a_pattern_without_blocks_has_the_reference_and_wrong_blocks_are_refused() -> None:
    stream, pattern = Stream(300, 10, 10), Diagonal()
    assert candidates(pattern, stream)[0] == "reference"
    assert "structured" not in candidates(pattern, stream)
    with pytest.raises(UserError, match="does not say how it is cut"):
        PatternAttention(pattern, stream, "structured")
    pattern.cut = Blocks(100)
    for backend in STRUCTURED:
        assert_same(backend, pattern, stream, batch=1)
    wrong = [Blocks(10), Blocks(50, 40), Blocks(50, 50, 2), Blocks(30, 99), Blocks(10, 0, 10)]
    for pattern.cut in wrong:
        with pytest.raises(UserError, match="the blocks of pattern diagonal are not what it"):
            StructuredKernel(pattern, stream)


def test_a_whole_training_run_is_the_same_by_either_backend() -> None:
    """Ten updates of a transformer with every pattern: the same losses, to rounding."""
    curves = []
    for backend in ("reference", "structured"):
        torch.manual_seed(0)
        config = TransformerConfig(
            *(20, 30, 6, 4, 5, 4, 2, 8, 16),
            layers=["row", "column", "full", "conv"],
            pattern_options={"conv": {"kernel": 3}},
            attention=backend,
        )
        model = Transformer(config)
        optimiser = torch.optim.Adam(model.parameters(), lr=1e-2)
        tokens, codes = torch.randint(0, 20, (4, 6)), torch.randint(0, 30, (4, 20))
        losses = []
        for _ in range(10):
            loss = model.loss(tokens, codes).total
            losses.append(loss.item())
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
        curves.append(losses)
    assert curves[0][-1] < 0.9 * curves[0][0]
    assert curves[1] == pytest.approx(curves[0], rel=1e-4)
