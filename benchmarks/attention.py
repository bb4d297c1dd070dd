"""Each pattern's attention against dense attention, forward and forward with backward.

    python -m benchmarks.attention [--quick] [--dtype bfloat16]

Baselines, on PyTorch's fused kernel: `masked`, dense attention under the pattern's mask (what a
mask alone makes of a sparse pattern), and `causal`, dense causal attention without a mask.
"""

import argparse
from collections.abc import Callable

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


def ways(stream: Stream) -> dict[str, Attend]:
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


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="256+32x32 alone, fewer rounds")
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], default="float32")
    parser.add_argument("--rounds", type=int, default=0, help="timed rounds (default 15; quick 5)")
    parser.add_argument("--memory-of", nargs=2, metavar=("WAY", "STREAM"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.manual_seed(0)
    dtype = getattr(torch, options.dtype)
    if options.memory_of:
        way, name = options.memory_of
        stream = STREAMS[name]
        print(memory_of(with_backward(ways(stream)[way], stream, dtype)))
        return

    rounds = options.rounds or (5 if options.quick else 15)
    names = list(STREAMS)[:1] if options.quick else list(STREAMS)
    ratios: dict[str, float] = {}
    table = []
    for name in names:
        stream = STREAMS[name]
        all_ways = ways(stream)
        once = interleaved({w: forward(a, stream, dtype) for w, a in all_ways.items()}, rounds)
        both = interleaved(
            {w: with_backward(a, stream, dtype) for w, a in all_ways.items()}, rounds
        )
        print(f"{name}: milliseconds forward, and with backward; MB of memory for that")
        for way in all_ways:
            memory = in_new_process(
                "benchmarks.attention", "--memory-of", way, name, "--dtype", options.dtype
            )
            row = {"stream": name, "way": way, "forward_ms": once[way] * 1e3}
            row |= {"both_ms": both[way] * 1e3, "memory_mb": memory}
            table.append(row)
            print(f"  {way:<8}{once[way] * 1e3:9.1f}{both[way] * 1e3:9.1f}{memory:9.0f}")
        suffix = "" if name == "256+32x32" else f"_{name}"
        for pattern in SPARSE:
            for baseline in ("masked", "causal"):
                ratios[f"{pattern}_vs_{baseline}{suffix}"] = both[baseline] / both[pattern]
                ratios[f"{pattern}_vs_{baseline}_forward{suffix}"] = once[baseline] / once[pattern]
    report(ratios, dtype=options.dtype, rounds=rounds, table=table)


if __name__ == "__main__":
    main()
