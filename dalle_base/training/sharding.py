"""Sharding (FSDP2): each process holds a part of every parameter, gradient, average and state.

A block's parameters are put together for as long as it computes, then dropped again. Checkpoints
know nothing of it: what is saved is put together, what is loaded is shared out.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, distributed, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor

from dalle_base.common.errors import UserError
from dalle_base.training import processes

ELEMENTWISE = ("adamw",)
"""Optimisers whose step of a weight needs that weight's gradient alone."""


def check_shardable(optimiser: str, precision: str, scales: bool = False) -> None:
    """Raise `UserError` for an optimiser that needs whole matrices, or what fp16 needs."""
    if optimiser not in ELEMENTWISE:
        raise UserError(
            f"optimiser.name={optimiser} steps whole matrices, which sharding splits; use "
            f"{' or '.join(ELEMENTWISE)}, or run.shard=false"
        )
    if scales:
        raise UserError("model.gradient_scales are for fp16, which sharding does not support")
    if precision == "fp16":
        raise UserError(
            "run.mixed_precision=fp16 scales losses, which sharding does not support; use bf16"
        )


def shard(model: nn.Module, device: torch.device) -> None:
    """Share a model's parameters out over all processes, in place.

    The elements of its lists of modules are put together one after the other; what is in none of
    them (embeddings, heads) stays together from the forward to the backward pass.
    """
    mesh = init_device_mesh(device.type, (processes.count(),))
    for blocks in [module for module in model.modules() if isinstance(module, nn.ModuleList)]:
        for block in blocks:
            if any(True for _ in block.parameters()):
                fully_shard(block, mesh=mesh)
    fully_shard(model, mesh=mesh)


def shared_out(whole: Tensor, like: Tensor) -> Tensor:
    """This process's part of a tensor that all have, placed as `like` is; no message is sent."""
    if not isinstance(like, DTensor):
        return whole
    whole = whole.detach().to(like.device, like.dtype)
    return distribute_tensor(whole, like.device_mesh, like.placements, src_data_rank=None)


def put_together(value: Any) -> Any:
    """Put what is shared out in a nest of containers together, one tensor after the other.

    All processes call this; the first gets the tensors, on its CPU, and the others None for them.
    """
    if isinstance(value, DTensor):
        whole = value.full_tensor()
        return whole.cpu() if distributed.get_rank() == 0 else None
    if isinstance(value, Mapping):
        return {key: put_together(each) for key, each in value.items()}
    if isinstance(value, list):
        return [put_together(each) for each in value]
    return value


def fitting(state: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors of `state` placed as those of `own` with their names, where the shapes agree."""
    return {
        name: shared_out(whole, own[name])
        if name in own and own[name].shape == whole.shape
        else whole
        for name, whole in state.items()
    }


def fitting_optimiser(state: dict[str, Any], groups: list[dict[str, Any]]) -> dict[str, Any]:
    """An optimiser's plain state, its tensors placed as the parameters of `groups` are."""
    parameters = [parameter for group in groups for parameter in group["params"]]
    placed = {}
    for number, values in state["state"].items():
        like = parameters[number]
        placed[number] = {
            name: shared_out(value, like)
            if isinstance(value, Tensor) and value.shape == like.shape
            else value
            for name, value in values.items()
        }
    return {**state, "state": placed}


@contextmanager
def unsynchronised(model: nn.Module) -> Iterator[None]:
    """Keep a sharded model's gradients in each process for now."""
    model.set_requires_gradient_sync(False)  # type: ignore[operator]
    try:
        yield
    finally:
        model.set_requires_gradient_sync(True)  # type: ignore[operator]


class ShardedAverage:
    """The moving average of a sharded model's parameters, shared out as they are.

    `whole` is an unsharded module that has no parameters' values but between `gather` and `drop`,
    and then on the first process only.
    """

    def __init__(self, whole: nn.Module, model: nn.Module) -> None:
        self.whole = whole
        pairs = zip(whole.parameters(), model.parameters(), strict=True)
        self.parts = [shared_out(mean.data, own) for mean, own in pairs]
        self.drop()

    def load(self, state: Mapping[str, Tensor]) -> None:
        """Take the values of a whole model's parameters."""
        names = [name for name, _ in self.whole.named_parameters()]
        for name, part in zip(names, self.parts, strict=True):
            part.copy_(shared_out(state[name], part))

    def weights(self) -> dict[str, Any]:
        """What the average's `state_dict` is if put together: `put_together` has the details."""
        named = zip(self.whole.named_parameters(), self.parts, strict=True)
        together = {name: put_together(part) for (name, _), part in named}
        return {
            name: together.get(name, buffer) for name, buffer in self.whole.state_dict().items()
        }

    @torch.no_grad()
    def gather(self) -> None:
        """Give `whole` its values, on the first process."""
        first = processes.rank() == 0
        for parameter, part in zip(self.whole.parameters(), self.parts, strict=True):
            together = part.full_tensor() if isinstance(part, DTensor) else part
            if first:
                parameter.data = together

    def drop(self) -> None:
        """Free what `gather` took."""
        for parameter in self.whole.parameters():
            parameter.data = parameter.data.new_empty(0)
