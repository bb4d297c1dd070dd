"""Whether a training run can fit into the memory here, before anything of it is made."""

import os
from pathlib import Path

import psutil
import torch

from dalle_base.common.errors import UserError
from dalle_base.common.size import LeastSize

FLOAT, HALF = 4, 2
"""Bytes of a number in float32, and in 16 bits."""
COPIES = 4
"""Of a parameter while it is trained: itself, its gradient, a running mean of that, its average."""
LIMITS = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")
"""Files in which Linux says how much a container may have."""


def memory_here() -> int:
    """Return the bytes that there are: of RAM (or what a container may have), swap and GPUs.

    A run on several machines has as many times that.
    """
    memory = psutil.virtual_memory().total
    for path in map(Path, LIMITS):
        try:
            memory = min(memory, int(path.read_text("ascii")))
        except (OSError, ValueError):  # no such file, or "max"
            continue
    memory += psutil.swap_memory().total
    for device in range(torch.cuda.device_count()):
        memory += torch.cuda.get_device_properties(device).total_memory
    machines = _number("WORLD_SIZE") // _number("LOCAL_WORLD_SIZE")
    return memory * max(1, machines)


def _number(variable: str) -> int:
    text = os.environ.get(variable, "")
    return max(1, int(text)) if text.isdecimal() else 1


def check_room(size: LeastSize, batch: int, advice: str) -> None:
    """Raise `UserError` if training needs more memory than there is, at the least.

    Args:
        size: the model's.
        batch: examples whose activations are held at a time.
        advice: what to write otherwise.
    """
    needs = {
        "weights, gradients and averages": size.parameters * COPIES * FLOAT,
        f"the activations of {batch:,} examples": size.activations * batch * HALF,
        "tables": size.constants,
    }
    total, here = sum(needs.values()), memory_here()
    if total > here:
        most = max(needs, key=lambda name: needs[name])
        raise UserError(
            f"this needs at least {_size(total)} of memory, most of it for {most}, and there are "
            f"{_size(here)}: {advice}"
        )


def _size(number: float) -> str:
    """Return a number of bytes as people read it."""
    return f"{number / 1e9:,.1f} GB" if number < 1e13 else f"{number / 1e12:,.0f} TB"
