"""A whole training step of stage two: tokens a second and peak memory.

    python -m benchmarks.train_step [--quick] [--peer "COMMAND LINE"]

The step is forward, backward and AdamW, at width 512, 8 layers, 8 heads, text 256 of 16,384
tokens, image 32x32 of 8,192 codes, batch 2; under bfloat16 autocast, as the shipped models were
trained, but where the name says float32. Baselines: our own model with `full` attention in every
layer (`dense`), the paper's layers as a mask on a dense product (`masked`), and any other
implementation whose command line `--peer` gives: it must print as its last line a JSON object with
`tokens_per_second`. Each runs in a process of its own, in turns.
"""

import argparse
import json
import shlex
import statistics
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import torch

from benchmarks.measuring import ceiling, interleaved, report
from dalle.config import TransformerConfig
from dalle.transformer import Transformer
from dalle_base.training.memory import keep_freed_memory

TEXT, GRID, BATCH = 256, 32, 2
SIZES: dict[str, Any] = {
    "text_vocab": 16384,
    "image_vocab": 8192,
    "text_length": TEXT,
    "rows": GRID,
    "columns": GRID,
    "depth": 8,
    "heads": 8,
    "head_width": 64,
    "d_model": 512,
}
VARIANTS: dict[str, dict[str, Any]] = {
    "ours": {},
    "dense": {"layers": ["full"] * SIZES["depth"]},
    "masked": {"attention": "reference"},
    "recompute": {"recompute": True},
    "float32": {},
    "dense_float32": {"layers": ["full"] * SIZES["depth"]},
}


def operations(config: TransformerConfig) -> float:
    """Return the floating-point operations of a step's products, forward and backward.

    Each weight of a product takes 2 operations a row forward and 4 backward; of attention, what the
    patterns allow is counted, not what an implementation computes.
    """
    model = Transformer(config)
    stream = config.stream
    layers = sum(p.numel() for block in model.blocks for p in block.parameters() if p.ndim == 2)
    products = layers * stream.length
    products += config.d_model * config.text_vocab * stream.text_length
    products += config.d_model * config.image_vocab * stream.image_length
    pairs = sum(int(model.mask(pattern).sum()) for pattern in model.patterns)
    products += 2 * pairs * config.heads * config.head_width
    return 6.0 * BATCH * products


def training_step(variant: str) -> Callable[[], None]:
    """Return a call that takes one step of a variant, on fixed random tokens."""
    torch.manual_seed(0)
    config = TransformerConfig(**SIZES, **VARIANTS[variant])
    model = Transformer(config)
    optimiser = torch.optim.AdamW(model.parameters(), lr=1e-4)
    tokens = torch.randint(0, config.text_vocab, (BATCH, TEXT))
    codes = torch.randint(0, config.image_vocab, (BATCH, GRID**2))

    def step() -> None:
        with torch.autocast("cpu", torch.bfloat16, enabled="float32" not in variant):
            loss = model(tokens, codes).total
        loss.backward()
        optimiser.step()
        optimiser.zero_grad()

    return step


def one_process(variant: str, steps: int) -> None:
    """Time a variant's steps in this process and print a JSON object."""
    keep_freed_memory()  # as training does
    step = training_step(variant)
    seconds = interleaved({variant: step}, steps)[variant]
    tokens = BATCH * (TEXT + GRID**2) / seconds
    print(json.dumps({"seconds": seconds, "tokens_per_second": tokens}))


def measured(command: list[str]) -> dict[str, float]:
    """Run a command; return its tokens a second and its whole process's peak memory in MB."""
    wrapper = (
        "import json, resource, subprocess, sys;"
        "done = subprocess.run(sys.argv[1:], check=True, stdout=subprocess.PIPE, text=True);"
        "figures = json.loads(done.stdout.strip().splitlines()[-1]);"
        "figures['peak'] = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss;"
        "print(json.dumps(figures))"
    )
    full = [sys.executable, "-c", wrapper, *command]
    done = subprocess.run(full, check=True, stdout=subprocess.PIPE, text=True)
    figures = json.loads(done.stdout)
    unit = 1 if sys.platform == "darwin" else 1024
    return {"tokens": figures["tokens_per_second"], "memory_mb": figures["peak"] * unit / 1e6}


def measured_in_turns(commands: dict[str, list[str]], rounds: int) -> dict[str, dict[str, float]]:
    """Return the medians of what `measured` says of each command, after printing them."""
    runs: dict[str, list[dict[str, float]]] = {name: [] for name in commands}
    for _ in range(rounds):
        for name, command in commands.items():
            runs[name].append(measured(command))
    table = {
        name: {key: statistics.median(run[key] for run in done) for key in done[0]}
        for name, done in runs.items()
    }
    for name, figures in table.items():
        print(f"{name:<14}{figures['tokens']:9.0f} tokens/s {figures['memory_mb']:9.0f} MB")
    return table


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="one round of one step each")
    parser.add_argument("--peer", default="", help="command line of another implementation")
    parser.add_argument("--rounds", type=int, default=0, help="processes of each (default 3)")
    parser.add_argument("--variant", choices=VARIANTS, help=argparse.SUPPRESS)
    parser.add_argument("--steps", type=int, default=0, help="timed steps a process (default 3)")
    options = parser.parse_args()
    steps = options.steps or (1 if options.quick else 3)
    if options.variant:
        one_process(options.variant, steps)
        return
    own = [sys.executable, "-m", "benchmarks.train_step", "--steps", str(steps), "--variant"]
    names = ["ours", "dense"] if options.quick else list(VARIANTS)
    commands = {name: [*own, name] for name in names}
    if options.peer:
        commands["peer"] = shlex.split(options.peer)
    table = measured_in_turns(commands, options.rounds or (1 if options.quick else 3))
    rates = {name: ceiling(getattr(torch, name)) for name in ("float32", "bfloat16")}
    report(ratios_of(table, rates), table=table, ceilings=rates)


def ratios_of(table: dict[str, dict[str, float]], rates: dict[str, float]) -> dict[str, float]:
    """Return the ratios of what was measured; `rates` are the ceilings by type."""
    ours, step = table["ours"], operations(TransformerConfig(**SIZES)) / (BATCH * (TEXT + GRID**2))
    ratios = {
        "tokens_vs_dense": ours["tokens"] / table["dense"]["tokens"],
        "flop_utilisation": step * ours["tokens"] / rates["bfloat16"],
    }
    if "masked" in table:
        ratios["tokens_vs_masked"] = ours["tokens"] / table["masked"]["tokens"]
        ratios["recompute_tokens"] = table["recompute"]["tokens"] / ours["tokens"]
        ratios["recompute_memory"] = table["recompute"]["memory_mb"] / ours["memory_mb"]
        single = table["float32"]
        ratios["tokens_vs_float32"] = ours["tokens"] / single["tokens"]
        ratios["flop_utilisation_float32"] = step * single["tokens"] / rates["float32"]
        dense = table["dense_float32"]["tokens"]
        ratios["tokens_vs_dense_float32"] = single["tokens"] / dense
    if "peer" in table:
        peer = table["peer"]
        for name, suffix in {"ours": "", "float32": "_float32"}.items():
            if name in table:
                ratios[f"tokens_vs_peer{suffix}"] = table[name]["tokens"] / peer["tokens"]
                ratios[f"memory_vs_peer{suffix}"] = table[name]["memory_mb"] / peer["memory_mb"]
    return ratios


if __name__ == "__main__":
    main()
