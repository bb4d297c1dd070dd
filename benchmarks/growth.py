"""How time and memory of attention grow with the grid: dense, row, column and convolutional.

    python -m benchmarks.growth [--quick] [--out docs/growth.png]

Forward and backward, text 256, 8 heads of 64, batch 1, on square grids. `dense` is causal attention
on PyTorch's fused kernel. The ratios are of the longest grid.
"""

import argparse
from collections.abc import Callable
from pathlib import Path

import torch
from matplotlib.figure import Figure
from torch.nn import functional as F

from benchmarks.measuring import in_new_process, interleaved, memory_of, report
from dalle.attention import PatternAttention
from dalle.patterns import PATTERNS
from dalle.stream import Stream

TEXT, HEADS, WIDTH = 256, 8, 64
WAYS = ("dense", "row", "column", "conv")
GRIDS, QUICK = (16, 24, 32, 48, 64), (16, 24, 32)


def call(way: str, grid: int) -> Callable[[], object]:
    """Return one forward and backward pass of a way on a grid."""
    stream = Stream(TEXT, grid, grid)
    qkv = torch.randn(3, 1, HEADS, stream.length, WIDTH).requires_grad_()
    grad = torch.randn(1, HEADS, stream.length, WIDTH)
    if way == "dense":
        return lambda: torch.autograd.grad(
            F.scaled_dot_product_attention(qkv[0], qkv[1], qkv[2], is_causal=True), qkv, grad
        )
    attention = PatternAttention(PATTERNS[way](), stream)
    return lambda: torch.autograd.grad(attention(*qkv), qkv, grad)


def plot(table: list[dict[str, float | str]], path: Path) -> None:
    """Draw time and memory against the number of image positions."""
    figure = Figure(figsize=(9, 3.6), layout="constrained")
    for axes, key, label in zip(
        figure.subplots(1, 2),
        ("milliseconds", "memory_mb"),
        ("forward and backward, ms", "memory, MB"),
        strict=True,
    ):
        for way in WAYS:
            rows = [row for row in table if row["way"] == way]
            positions = [int(row["grid"]) ** 2 for row in rows]
            axes.plot(positions, [row[key] for row in rows], marker="o", label=way)
        axes.set(xlabel="image positions", ylabel=label, xscale="log", yscale="log")
        axes.legend()
    figure.savefig(path, dpi=120)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="three grids, fewer rounds")
    parser.add_argument("--rounds", type=int, default=0, help="timed rounds (default 5; quick 2)")
    parser.add_argument("--out", type=Path, help="picture to write")
    parser.add_argument("--memory-of", nargs=2, metavar=("WAY", "GRID"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.manual_seed(0)
    if options.memory_of:
        print(memory_of(call(options.memory_of[0], int(options.memory_of[1]))))
        return
    grids = QUICK if options.quick else GRIDS
    table: list[dict[str, float | str]] = []
    seconds: dict[str, float] = {}
    for grid in grids:
        rounds = options.rounds or (2 if options.quick else 5)
        seconds = interleaved({way: call(way, grid) for way in WAYS}, rounds)
        for way in WAYS:
            memory = in_new_process("benchmarks.growth", "--memory-of", way, grid)
            table.append(
                {"way": way, "grid": grid, "milliseconds": seconds[way] * 1e3, "memory_mb": memory}
            )
            print(f"{grid:>3}x{grid:<3} {way:<7}{seconds[way] * 1e3:9.1f} ms {memory:8.0f} MB")
    if options.out:
        plot(table, options.out)
    ratios = {f"{way}_vs_dense": seconds["dense"] / seconds[way] for way in WAYS[1:]}
    report(ratios, grid=grids[-1], table=table)


if __name__ == "__main__":
    main()
