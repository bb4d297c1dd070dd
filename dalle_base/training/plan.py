"""What training needs of each device's memory, worked out on tensors that have no memory.

A model is built without weights, and one update is followed on fake tensors: each allocation counts
its bytes and computes nothing. What sharding changes is arithmetic on top of that.
"""

import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.distributed._tools.mem_tracker import MemTracker

from dalle_base.training.config import OptimiserConfig, RunConfig
from dalle_base.training.decay import decay_groups
from dalle_base.training.optimisers import OPTIMISERS

Pass = tuple[nn.Module, Callable[[nn.Module], Tensor]]
"""A model on the meta device; and what makes a batch (of zeros) and returns its training loss."""
PASSING = ("ACT", "TEMP", "OTH", "GRAD")
"""Kinds of memory that an update takes and gives back."""


@dataclass(frozen=True)
class Needs:
    """Bytes of one process that holds a whole model."""

    parameters: float
    gradients: float
    optimiser: float
    buffers: float
    activations: float
    """Of one batch, at most: what the backward pass reads, and temporary tensors."""
    backward: float
    """Activations and gradients together, at most: the ones go while the others come to be."""
    block: float
    """Parameters of the largest block: what sharding puts together at a time."""
    rest: float
    """Parameters outside all blocks (embeddings, heads): sharding puts these together for a whole
    update."""


@dataclass(frozen=True)
class Share:
    """Bytes on each device, by what they are for."""

    parameters: float
    gradients: float
    optimiser: float
    average: float
    together: float
    """Parameters and gradients that sharding has put together where memory peaks."""
    activations: float
    peak: float
    """The most at a time: not the sum, where gradients come to be while activations go."""


def follow(
    model: nn.Module,
    loss: Callable[[nn.Module], Tensor],
    optimiser: OptimiserConfig,
    precision: str = "no",
) -> Needs:
    """Follow one update of a model.

    Args:
        model: on the meta device.
        loss: makes a batch (of zeros) and returns the model's training loss.
        optimiser: what steps.
        precision: as in `run.mixed_precision`.
    """
    low = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(precision)
    with FakeTensorMode(allow_non_fake_inputs=True):
        model.to_empty(device="cpu").train()
        kept = _peak(model, loss, low)
        hidden = getattr(model, "hidden_weights", list)()
        groups = decay_groups(model, optimiser.weight_decay)
        stepper = OPTIMISERS[optimiser.name](groups, hidden, optimiser)
        tracker = MemTracker()
        tracker.track_external(model, stepper)
        with tracker:
            stepper.step()
            state = _bytes(tracker.get_tracker_snapshot("current"))["OPT"]
        for parameter in model.parameters():
            parameter.grad = None
        gone = _peak(model, loss, low, forget=True)
    block, rest = _units(model)
    return Needs(
        parameters=kept["PARAM"],
        gradients=_size(model),
        optimiser=state,
        buffers=kept["BUFFER"],
        activations=sum(gone[kind] for kind in PASSING),
        backward=sum(kept[kind] for kind in PASSING),
        block=block,
        rest=rest,
    )


def _peak(
    model: nn.Module,
    loss: Callable[[nn.Module], Tensor],
    low: torch.dtype | None,
    forget: bool = False,
) -> dict[str, float]:
    """Bytes by kind where the memory of a forward and a backward pass peaks.

    With `forget` each gradient goes as soon as it is there.
    """
    tracker = MemTracker()
    tracker.track_external(model)
    if forget:  # behind the tracker's own hooks, which look at the gradient
        for parameter in model.parameters():
            parameter.register_post_accumulate_grad_hook(_forget)
    with tracker, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the tracker looks for gradients that are gone
        with torch.autocast("cpu", low, enabled=low is not None):
            total = loss(model)
        total.float().backward()
        del total
        return _bytes(tracker.get_tracker_snapshot("peak"))


def _forget(parameter: Tensor) -> None:
    parameter.grad = None


def _bytes(snapshot: Any) -> dict[str, float]:
    found: dict[str, float] = dict.fromkeys(("PARAM", "BUFFER", "OPT", *PASSING), 0.0)
    for device in snapshot.values():
        for kind, size in device.items():
            name = getattr(kind, "name", kind)
            if name in found:
                found[name] += size
    return found


def _units(model: nn.Module) -> tuple[float, float]:
    """Bytes of the largest block that sharding puts together, and of what is in none."""
    lists = [module for module in model.modules() if isinstance(module, nn.ModuleList)]
    blocks = [_size(block) for blocks in lists for block in blocks]
    return max(blocks, default=0.0), _size(model) - sum(blocks)


def _size(module: nn.Module) -> float:
    return float(sum(p.numel() * p.element_size() for p in module.parameters()))


def extended(small: Needs, large: Needs, times: float) -> Needs:
    """What a deeper model needs: `large` and `times` the difference of `large` and `small`.

    Both have the same parts outside their blocks, and `large` has some more blocks.
    """

    def grown(name: str) -> float:
        value = getattr(large, name)
        return value + times * (value - getattr(small, name))

    names = ("parameters", "gradients", "optimiser", "buffers", "activations", "backward")
    return replace(large, **{name: grown(name) for name in names})


def plain_share(needs: Needs) -> Share:
    """What one device needs by itself."""
    held = needs.parameters + needs.optimiser + needs.buffers + needs.parameters
    return Share(
        needs.parameters,
        needs.gradients,
        needs.optimiser,
        needs.parameters,
        0.0,
        needs.activations + needs.buffers,
        held + max(needs.backward, needs.gradients),
    )


def ddp_share(needs: Needs) -> Share:
    """What each device needs that holds the whole model: the gradients' buckets always exist."""
    plain = plain_share(needs)
    held = needs.parameters + needs.optimiser + needs.buffers + needs.parameters
    return replace(plain, peak=held + needs.gradients + needs.activations)


def fsdp_share(needs: Needs, devices: int) -> Share:
    """What each device needs that holds its part of the model (`sharding.shard`).

    Put together are: all outside the blocks, with its gradient; a block and the one that is
    fetched ahead; and a block's gradient.
    """
    together = 2 * needs.rest + 3 * needs.block if devices > 1 else 0.0
    parameters, gradients = needs.parameters / devices, needs.gradients / devices
    optimiser, activations = needs.optimiser / devices, needs.activations + needs.buffers
    held = parameters + gradients + optimiser + parameters
    return Share(
        parameters,
        gradients,
        optimiser,
        parameters,
        together,
        activations,
        held + together + activations,
    )


def table(needs: Needs, run: RunConfig, devices: int, shards: bool = False) -> str:
    """Say what a run needs of each device, for people to read; `shards`: it may be sharded."""
    shares = {"plain (1 device)": plain_share(needs), f"DDP ({devices})": ddp_share(needs)}
    if shards:
        shares[f"FSDP ({devices})"] = fsdp_share(needs, devices)
    rows = {
        "parameters": "parameters",
        "gradients": "gradients",
        "optimiser": "optimiser",
        "moving average": "average",
        "put together": "together",
        "activations": "activations",
        "at the peak": "peak",
    }
    if not shards:
        del rows["put together"]
    unit, size = ("GB", 1e9) if needs.parameters > 1e8 else ("MB", 1e6)
    images = run.batch_size * run.accumulate
    lines = [
        f"{needs.parameters / 4:,.0f} parameters; batches of {run.batch_size} images a process, "
        f"{run.mixed_precision} mixed precision; an update takes {images} images on one device, "
        f"{images * devices} on {devices}",
        "",
        " " * 16 + "".join(f"{name:>18}" for name in shares) + f"   {unit} a device",
    ]
    for label, name in rows.items():
        values = "".join(f"{getattr(share, name) / size:18.1f}" for share in shares.values())
        lines.append(f"{label:<16}{values}")
    return "\n".join(lines)
