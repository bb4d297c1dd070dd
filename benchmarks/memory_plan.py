"""Memory that `train_dalle.py --plan` predicts beside what updates take: docs/scale.md has results.

    python -m benchmarks.memory_plan [--recompute] [--precision bf16] [--batch 4]
    torchrun --nproc_per_node=2 -m benchmarks.memory_plan [--shard]

Measured is the growth of the process's resident memory from before the model is built to its peak,
on a CPU.
"""

import argparse
import resource
from dataclasses import replace
from pathlib import Path

import torch
from accelerate import Accelerator

from dalle.config import TransformerConfig
from dalle.plan import transformer_needs
from dalle.transformer import Transformer
from dalle_base.training import processes
from dalle_base.training.config import OptimiserConfig, RunConfig
from dalle_base.training.launch import connect, leave
from dalle_base.training.memory import keep_freed_memory
from dalle_base.training.plan import ddp_share, fsdp_share, plain_share
from dalle_base.training.trainer import Trainer

SIZE = TransformerConfig(
    text_vocab=2048,
    image_vocab=2048,
    text_length=64,
    rows=16,
    columns=16,
    depth=8,
    heads=8,
    d_model=512,
)


def main() -> None:
    parser = argparse.ArgumentParser(description="predicted and measured memory")
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--updates", type=int, default=2)
    parser.add_argument("--precision", default="no")
    parser.add_argument("--recompute", action="store_true")
    parser.add_argument("--shard", action="store_true")
    options = parser.parse_args()
    SIZE.recompute = options.recompute
    run = RunConfig(batch_size=options.batch, mixed_precision=options.precision)
    accelerator = connect(run.mixed_precision)
    keep_freed_memory()
    # What libraries load and keep at their first use is no part of the plan.
    _train(replace(SIZE, depth=1, d_model=64, heads=1), options, accelerator)
    before = _resident()
    _train(SIZE, options, accelerator)
    measured = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 - before
    world, rank = processes.count(), processes.rank()
    leave(orderly=True)
    if rank == 0:
        needs = transformer_needs(SIZE, OptimiserConfig(), run)
        share = plain_share(needs) if world == 1 else ddp_share(needs)
        share = fsdp_share(needs, world) if options.shard else share
        print(
            f"{world} processes, {vars(options)}: predicted {share.peak / 1e9:.3f} GB, measured "
            f"{measured / 1e9:.3f} GB, ratio {share.peak / measured:.2f}"
        )


def _train(size: TransformerConfig, options: argparse.Namespace, accelerator: Accelerator) -> None:
    """Take some updates on random tokens."""
    torch.manual_seed(0)
    trainer = Trainer(Transformer(size), OptimiserConfig(), accelerator, sharded=options.shard)
    tokens = torch.randint(size.text_vocab, (options.batch, size.text_length))
    codes = torch.randint(size.image_vocab, (options.batch, size.rows * size.columns))
    for _ in range(options.updates):
        trainer.update(trainer.model(tokens, codes).total)


def _resident() -> int:
    fields = Path("/proc/self/statm").read_text("utf-8").split()
    return int(fields[1]) * resource.getpagesize()


if __name__ == "__main__":
    main()
