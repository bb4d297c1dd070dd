"""What a run says of itself before its first update."""

from typing import TYPE_CHECKING

import torch
from accelerate import Accelerator

if TYPE_CHECKING:
    from dalle_base.training.run import Run


def banner(run: "Run", training: str, held_out: int) -> str:
    """Return a few lines: where and in what precision, which model, what data, how far, where to.

    Args:
        run: with its trainer attached.
        training: how many images are trained on.
        held_out: images that are measured.
    """
    accelerator, options = run.accelerator, run.options
    parameters = list(accelerator.unwrap_model(run.trainer.model).parameters())
    count = sum(p.numel() for p in parameters)
    trained = sum(p.numel() for p in parameters if p.requires_grad)
    processes = accelerator.num_processes
    batch = f"{run.batch_size} images in an update"
    if processes > 1:
        batch += f", {run.batch_size // processes} for each process"
    rows = {
        "device": f"{device_name(accelerator.device)}, {_count(processes, 'process', 'processes')}",
        "precision": precision_name(accelerator),
        "model": f"{count:,} parameters" + (f", {trained:,} trained" if trained < count else ""),
        "data": f"{training} training and {held_out:,} held-out images",
        "updates": f"{run.trainer.step:,} of {options.updates:,} done, {batch}",
        "folder": str(run.folder),
    }
    return "\n".join(f"{name:<10} {value}" for name, value in rows.items())


def device_name(device: torch.device) -> str:
    """Return a device's name, with what is there of it."""
    if device.type == "cuda":
        return f"{device} ({torch.cuda.get_device_name(device)})"
    if device.type == "cpu":
        return f"{device} ({_count(torch.get_num_threads(), 'thread', 'threads')})"
    return str(device)


def precision_name(accelerator: Accelerator) -> str:
    """Return in what a run computes."""
    name = accelerator.mixed_precision if accelerator.native_amp else "no"
    weights = {"no": "float32", "bf16": "bfloat16, weights in float32"}
    return weights.get(name, "float16, weights in float32")


def _count(number: int, one: str, many: str) -> str:
    return f"{number} {one if number == 1 else many}"
