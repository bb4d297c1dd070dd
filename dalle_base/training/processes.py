"""What the processes of a run say to one another; each is a no-op where there is one process.

Every process calls these at the same places, or the others wait.
"""

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor, distributed


class _Noise:
    """The shared random numbers of an update: see `seed_update` and `uniform_like`."""

    generator: torch.Generator | None = None
    skipped = 0


def several() -> bool:
    """Whether this process trains with others."""
    return count() > 1


def count() -> int:
    """How many processes train together."""
    there = distributed.is_available() and distributed.is_initialized()
    return distributed.get_world_size() if there else 1


def rank() -> int:
    """The number of this process, from 0."""
    return distributed.get_rank() if several() else 0


def mean(values: Tensor) -> Tensor:
    """The mean of a tensor over processes, without a gradient; itself where there is one."""
    if not several():
        return values
    total = values.detach().clone()
    distributed.all_reduce(total)
    return total / count()


def mean_with_gradient(values: Tensor) -> Tensor:
    """The mean over processes, whose gradient is that of this process's `values`.

    Averaged over processes, as DistributedDataParallel does, such gradients are those of a loss of
    the mean: what one process with the whole batch computes.
    """
    if not several():
        return values
    return values + (mean(values) - values.detach())


def mean_figures(figures: Mapping[str, float], device: torch.device) -> dict[str, float]:
    """The means over processes of figures that all of them have."""
    if not several():
        return dict(figures)
    # Apple's GPUs have no float64, but no two processes either.
    values = torch.tensor(list(figures.values()), dtype=torch.float64, device=device)
    return dict(zip(figures, mean(values).tolist(), strict=True))


def any_process(device: torch.device, *flags: bool) -> list[bool]:
    """Whether each flag is set in any process."""
    if not several():
        return list(flags)
    return (mean(torch.tensor(flags, dtype=torch.float, device=device)) > 0).tolist()


def seed_update(seed: int, step: int, parts: int = 1) -> None:
    """Seed torch's random numbers for an update, so that noise depends on both numbers alone.

    Each process gets numbers of its own, and all get those of `uniform_like`.

    Args:
        seed: of the run.
        step: number of the update.
        parts: how many parts a process's batch is taken in.
    """
    torch.manual_seed(_number(seed, step, rank()))
    _Noise.generator = None
    if several():
        _Noise.generator = torch.Generator().manual_seed(_number(seed, step, 0))
        _Noise.skipped = rank() * parts


def _number(seed: int, step: int, process: int) -> int:
    high, low = np.random.SeedSequence((seed, step, process)).generate_state(2).tolist()
    return high << 32 | low


def uniform_like(values: Tensor) -> Tensor:
    """Uniform numbers in [0, 1) of the shape and type of `values` [B, ...].

    On a CPU the processes together draw what one process with the whole batch draws: each passes
    over the numbers of those before it. (GPUs number theirs otherwise; there they are each one's
    own.)
    """
    if _Noise.generator is None or values.device.type != "cpu" or not several():
        return torch.rand_like(values)
    noise = torch.empty_like(values)  # in the order of its memory, as `rand_like` fills it
    while _Noise.skipped:
        noise.uniform_(generator=_Noise.generator)
        _Noise.skipped -= 1
    return noise.uniform_(generator=_Noise.generator)
