"""Where a training step's time goes, by kind of work, beside the machine's two ceilings.

    python -m benchmarks.profile_step [--variant ours]

The variants are those of benchmarks/train_step.py. Shares are of the time that operators take
themselves (torch.profiler), over a few steps.
"""

import argparse
from collections import defaultdict

import torch
from torch.autograd.profiler_util import FunctionEvent
from torch.profiler import profile

from benchmarks.measuring import ceiling, report
from benchmarks.train_step import VARIANTS, training_step

ATTENTION = ("dalle::", "scaled_dot_product")
KINDS = {
    "matrix products": ("aten::mm", "aten::addmm", "aten::bmm", "aten::baddbmm", "mkldnn"),
    "softmax and loss": ("softmax", "nll_loss", "logsumexp"),
    "normalisation": ("layer_norm",),
    "GELU": ("gelu",),
    "optimiser": ("Optimizer", "_fused_adam", "_foreach"),
    "copies and casts": ("copy_", "aten::cat", "fill_", "zero_"),
}


def kind_of(event: FunctionEvent) -> str:
    """Return what kind of work an operator does: attention's own products are attention."""
    caller: FunctionEvent | None = event
    while caller is not None:
        if any(part in caller.name for part in ATTENTION):
            return "attention"
        caller = caller.cpu_parent
    for kind, parts in KINDS.items():
        if any(part in event.name for part in parts):
            return kind
    return "the rest"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--variant", choices=VARIANTS, default="ours")
    parser.add_argument("--steps", type=int, default=3, help="profiled steps")
    options = parser.parse_args()
    step = training_step(options.variant)
    step()
    with profile() as profiler:
        for _ in range(options.steps):
            step()
    milliseconds: dict[str, float] = defaultdict(float)
    for event in profiler.events() or ():
        milliseconds[kind_of(event)] += event.self_cpu_time_total / 1e3 / options.steps
    total = sum(milliseconds.values())
    shares = {kind: value / total for kind, value in milliseconds.items()}
    for kind in sorted(shares, key=lambda kind: -shares[kind]):
        print(f"{kind:<26}{milliseconds[kind]:9.1f} ms {shares[kind]:7.1%}")
    ceilings = {name: ceiling(getattr(torch, name)) for name in ("float32", "bfloat16")}
    report(shares, variant=options.variant, step_ms=total, ceilings=ceilings)


if __name__ == "__main__":
    main()
