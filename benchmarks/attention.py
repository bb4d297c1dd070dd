"""Each pattern's attention against dense attention, forward and forward with backward.

    python -m benchmarks.attention [--quick] [--dtype bfloat16]

Baselines, on PyTorch's fused kernel: `masked`, dense attention under the pattern's mask (what a
mask alone makes of a sparse pattern), and `causal`, dense causal attention without a mask.
"""

import argparse
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from benchmarks.measuring import in_new_process, interleaved, memory_of, report
from dalle.attention import PatternAttention
from dalle.patterns import PATTERNS
from dalle.stream import Stream

STREAMS = {
    "256+32x32": Stream(256, 32, 32),
    "64+16x16": Stream(64, 16, 16),
    "128+48x48": Stream(128, 48, 48),
}
SPARSE = ("row", "column", "conv")
HEADS, WIDTH, BATCH = 8, 64, 2

Attend = Callable[[Tensor, Tensor, Tensor], Tensor]


class Row(NamedTuple):
    """The figures of a variant on a stream."""

    stream: str
    variant: str
    forward_ms: float
    both_ms: float
    memory_mb: float


def variants(stream: Stream) -> dict[str, Attend]:
    """Return the baselines and each pattern's attention."""
    mask = PATTERNS["row"]().mask(stream)

    def masked(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return F.scaled_dot_product_attention(q, k, v, attn_mask=mask)

    def causal(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return F.scaled_dot_product_attention(q, k, v, is_causal=True)

    patterns = {name: PatternAttention(PATTERNS[name](), stream) for name in SPARSE}
    return {"masked": masked, "causal": causal, **patterns}


def forward(attend: Attend, stream: Stream, dtype: torch.dtype) -> Callable[[], object]:
    """Return a call of `attend` on fixed inputs."""
    q, k, v = torch.randn(3, BATCH, HEADS, stream.length, WIDTH).to(dtype)
    return lambda: attend(q, k, v)


def with_backward(attend: Attend, stream: Stream, dtype: torch.dtype) -> Callable[[], object]:
    """Return a call of `attend` on fixed inputs and of its gradient."""
    qkv = torch.randn(3, BATCH, HEADS, stream.length, WIDTH).to(dtype).requires_grad_()
    grad = torch.randn(BATCH, HEADS, stream.length, WIDTH).to(dtype)
    return lambda: torch.autograd.grad(attend(*qkv), qkv, grad)


def measure(name: str, options: argparse.Namespace) -> list[Row]:
    """Return the figures of all variants on a stream, after printing them."""
    stream, dtype = STREAMS[name], getattr(torch, options.dtype)
    attends = variants(stream)
    once = {variant: forward(attend, stream, dtype) for variant, attend in attends.items()}
    both = {variant: with_backward(attend, stream, dtype) for variant, attend in attends.items()}
    once_seconds = interleaved(once, options.rounds)
    both_seconds = interleaved(both, options.rounds)
    print(f"{name}: milliseconds forward, and with backward; MB of memory for that")
    rows = []
    for variant in attends:
        arguments = ("--memory-of", variant, name, "--dtype", options.dtype)
        memory = in_new_process("benchmarks.attention", *arguments)
        row = Row(name, variant, once_seconds[variant] * 1e3, both_seconds[variant] * 1e3, memory)
        rows.append(row)
        print(f"  {variant:<8}{row.forward_ms:9.1f}{row.both_ms:9.1f}{memory:9.0f}")
    return rows


def ratios_of(rows: list[Row]) -> dict[str, float]:
    """Return each pattern's ratios to the baselines on one stream."""
    of = {row.variant: row for row in rows}
    suffix = "" if rows[0].stream == "256+32x32" else f"_{rows[0].stream}"
    ratios = {}
    for pattern in SPARSE:
        for baseline in ("masked", "causal"):
            name = f"{pattern}_vs_{baseline}"
            ratios[f"{name}{suffix}"] = of[baseline].both_ms / of[pattern].both_ms
            ratios[f"{name}_forward{suffix}"] = of[baseline].forward_ms / of[pattern].forward_ms
    return ratios


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="256+32x32 alone, fewer rounds")
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], default="float32")
    parser.add_argument("--rounds", type=int, default=0, help="timed rounds (default 15; quick 5)")
    parser.add_argument("--memory-of", nargs=2, help=argparse.SUPPRESS)  # variant, stream
    options = parser.parse_args()
    torch.manual_seed(0)
    if options.memory_of:
        variant, name = options.memory_of
        stream, dtype = STREAMS[name], getattr(torch, options.dtype)
        print(memory_of(with_backward(variants(stream)[variant], stream, dtype)))
        return
    options.rounds = options.rounds or (5 if options.quick else 15)
    ratios: dict[str, float] = {}
    table: list[Row] = []
    for name in list(STREAMS)[:1] if options.quick else STREAMS:
        rows = measure(name, options)
        table += rows
        ratios |= ratios_of(rows)
    details = {"dtype": options.dtype, "rounds": options.rounds}
    report(ratios, **details, table=[row._asdict() for row in table])


if __name__ == "__main__":
    main()
