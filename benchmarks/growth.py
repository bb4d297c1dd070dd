"""How time and memory of attention grow with the grid: dense, row, column and convolutional.

    python -m benchmarks.growth [--quick] [--out docs/growth.png]

Forward and backward, text 256, 8 heads of 64, batch 1, on square grids. `dense` is causal attention
on PyTorch's fused kernel. The ratios are of the longest grid.
"""

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import torch
from matplotlib.figure import Figure
from torch.nn import functional as F

from benchmarks.measuring import in_new_process, interleaved, memory_of, report
from dalle.attention import PatternAttention
from dalle.patterns import PATTERNS
from dalle.stream import Stream

TEXT, HEADS, WIDTH = 256, 8, 64
VARIANTS = ("dense", "row", "column", "conv")
GRIDS, QUICK = (16, 24, 32, 48, 64), (16, 24, 32)


class Row(NamedTuple):
    """The figures of a variant on a grid."""

    variant: str
    grid: int
    milliseconds: float
    memory_mb: float


def call(variant: str, grid: int) -> Callable[[], object]:
    """Return one forward and backward pass of a variant on a grid."""
    stream = Stream(TEXT, grid, grid)
    qkv = torch.randn(3, 1, HEADS, stream.length, WIDTH).requires_grad_()
    grad = torch.randn(1, HEADS, stream.length, WIDTH)
    if variant == "dense":
        return lambda: torch.autograd.grad(
            F.scaled_dot_product_attention(qkv[0], qkv[1], qkv[2], is_causal=True), qkv, grad
        )
    attention = PatternAttention(PATTERNS[variant](), stream)
    return lambda: torch.autograd.grad(attention(*qkv), qkv, grad)


def measure(grid: int, rounds: int) -> list[Row]:
    """Return the figures of all variants on a grid, after printing them."""
    rows = []
    seconds = interleaved({variant: call(variant, grid) for variant in VARIANTS}, rounds)
    for variant in VARIANTS:
        memory = in_new_process("benchmarks.growth", "--memory-of", variant, grid)
        row = Row(variant, grid, seconds[variant] * 1e3, memory)
        rows.append(row)
        print(f"{grid:>3}x{grid:<3} {variant:<7}{row.milliseconds:9.1f} ms {memory:8.0f} MB")
    return rows


def plot(table: list[Row], path: Path) -> None:
    """Plot time and memory against the number of image positions."""
    figure = Figure(figsize=(9, 3.6), layout="constrained")
    for axes, key, label in zip(
        figure.subplots(1, 2),
        ("milliseconds", "memory_mb"),
        ("forward and backward, ms", "memory, MB"),
        strict=True,
    ):
        for variant in VARIANTS:
            rows = [row for row in table if row.variant == variant]
            positions = [row.grid**2 for row in rows]
            axes.plot(positions, [getattr(row, key) for row in rows], marker="o", label=variant)
        axes.set(xlabel="image positions", ylabel=label, xscale="log", yscale="log")
        axes.legend()
    figure.savefig(path, dpi=120)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="three grids, fewer rounds")
    parser.add_argument("--rounds", type=int, default=0, help="timed rounds (default 5; quick 2)")
    parser.add_argument("--out", type=Path, help="image to write")
    parser.add_argument("--memory-of", nargs=2, help=argparse.SUPPRESS)  # variant, grid
    options = parser.parse_args()
    torch.manual_seed(0)
    if options.memory_of:
        print(memory_of(call(options.memory_of[0], int(options.memory_of[1]))))
        return
    grids = QUICK if options.quick else GRIDS
    rounds = options.rounds or (2 if options.quick else 5)
    table = [row for grid in grids for row in measure(grid, rounds)]
    if options.out:
        plot(table, options.out)
    longest = {row.variant: row.milliseconds for row in table if row.grid == grids[-1]}
    ratios = {f"{name}_vs_dense": longest["dense"] / longest[name] for name in VARIANTS[1:]}
    report(ratios, grid=grids[-1], table=[row._asdict() for row in table])


if __name__ == "__main__":
    main()
