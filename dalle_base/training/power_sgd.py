"""Gradients compressed between processes by PowerSGD (section 2.5; Vogels et al. 2019).

A matrix's gradient [n, m] is exchanged as two factors of a small rank, [n, r] and [m, r]. What the
factors leave out is kept by each process and added to its next gradient. The compression is torch's
own hook; what is here lets it be resumed.
"""

from collections.abc import Sequence
from typing import Any, cast

import torch
from accelerate import Accelerator
from torch import Tensor, distributed, nn
from torch._C._distributed_c10d import GradBucket  # which torch looks for in a hook's annotations
from torch.distributed.algorithms.ddp_comm_hooks import powerSGD_hook as torch_hook
from torch.nn.parallel import DistributedDataParallel

from dalle_base.common.errors import UserError
from dalle_base.training.config import OptimiserConfig

Memory = dict[str, dict[str, Tensor]]
"""What is remembered of each parameter by name: its `error` (flat), the factor `q` (flat)."""
UNCOMPRESSED_UPDATES = 2
"""Updates before torch's hook may begin: it needs the buckets that gradients are sent in, which are
made anew after the first."""


class _Bucket:
    """What torch's hook reads of a bucket. It takes no scalar, so that these become vectors."""

    def __init__(self, bucket: GradBucket) -> None:
        self.index, self.buffer, self.is_last = bucket.index, bucket.buffer, bucket.is_last
        self._gradients = [
            gradient.view(-1) if not gradient.ndim else gradient for gradient in bucket.gradients()
        ]

    def gradients(self) -> list[Tensor]:
        return self._gradients


class PowerSGD:
    """Compresses the gradients of a model in several processes.

    torch's hook remembers by bucket, and buckets are made anew in a resumed run. Here what it
    remembers is kept by parameter and laid out again whenever the buckets change, so that a resumed
    run goes on exactly as it would have.
    """

    def __init__(self, model: DistributedDataParallel, rank: int, start: int) -> None:
        """Attach to a model.

        Args:
            model: as prepared for several processes.
            rank: of the factors.
            start: updates before the first that is compressed.
        """
        self.names = {p: name for name, p in model.module.named_parameters()}
        self.numbers = {p: number for number, p in enumerate(self.names)}
        self.hook_state = torch_hook.PowerSGDState(
            process_group=None,
            matrix_approximation_rank=rank,
            start_powerSGD_iter=max(start, UNCOMPRESSED_UPDATES),
        )
        self._memory: Memory = {}  # of parameters whose bucket is not laid out
        self._buckets: dict[int, list[nn.Parameter]] = {}
        self._gathered: list[Memory] = []
        model.register_comm_hook(self.hook_state, self._hook)

    def _hook(
        self, state: torch_hook.PowerSGDState, bucket: GradBucket
    ) -> torch.futures.Future[Tensor]:
        index, parameters = bucket.index(), cast(list[nn.Parameter], bucket.parameters())
        known = self._buckets.get(index)
        if known is None or [*map(id, known)] != [*map(id, parameters)]:
            if known is not None:
                self._collect()
            self._lay_out(index, parameters)
        return torch_hook.powerSGD_hook(state, cast(Any, _Bucket(bucket)))

    def _collect(self) -> None:
        """Take what torch's hook remembers out of its buckets."""
        self._memory |= self._by_parameter()
        for held in (self._buckets, self.hook_state.error_dict):
            held.clear()
        self.hook_state.p_memory_dict.clear()
        self.hook_state.q_memory_dict.clear()

    def _lay_out(self, index: int, parameters: Sequence[nn.Parameter]) -> None:
        """Give torch's hook what is remembered of the parameters of one bucket."""
        self._buckets[index] = list(parameters)
        device, state = parameters[0].device, self.hook_state
        memory = [self._memory.pop(self.names[p], {}) for p in parameters]
        if all("error" in held for held in memory):
            state.error_dict[index] = torch.cat([held["error"] for held in memory]).to(device)
        known = {p: held["q"] for p, held in zip(parameters, memory, strict=True) if "q" in held}
        compressed = self._compressed(parameters)
        factors = [known[p] if p in known else self._random(p) for p in compressed]
        state.q_memory_dict[index] = torch.cat([torch.empty(0), *map(Tensor.cpu, factors)]).to(
            device
        )
        rows = sum(len(p) * self._rank(p) for p in compressed)
        state.p_memory_dict[index] = torch.empty(rows, device=device)  # made anew each time

    def _random(self, parameter: nn.Parameter) -> Tensor:
        """A factor to begin with, flat: the same in all processes, whatever the buckets.

        torch's hook would draw one for each bucket.
        """
        generator = torch.Generator().manual_seed(self.numbers[parameter])
        return torch.randn(self._factor_size(parameter), generator=generator)

    def _factor_size(self, parameter: nn.Parameter) -> int:
        return parameter.numel() // len(parameter) * self._rank(parameter)

    def _compressed(self, parameters: Sequence[nn.Parameter]) -> list[nn.Parameter]:
        """Those that are sent as factors, in the order that torch's hook has: by shape."""
        by_shape: dict[tuple[int, int], list[nn.Parameter]] = {}
        for parameter in parameters:
            if self._rank(parameter):
                shape = (len(parameter), parameter.numel() // len(parameter))
                by_shape.setdefault(shape, []).append(parameter)
        return [parameter for alike in by_shape.values() for parameter in alike]

    def _rank(self, parameter: nn.Parameter) -> int:
        """The rank in which a parameter's gradient is sent; 0: as it is."""
        n = len(parameter) if parameter.ndim else 1
        m = parameter.numel() // n
        rank = min(n, m, self.hook_state.matrix_approximation_rank)
        smaller = (n + m) * rank * self.hook_state.min_compression_rate < n * m
        return rank if smaller else 0

    def _by_parameter(self) -> Memory:
        memory: Memory = {}
        for index, parameters in self._buckets.items():
            if index not in self.hook_state.error_dict:
                continue
            errors = self.hook_state.error_dict[index].split([p.numel() for p in parameters])
            for parameter, error in zip(parameters, errors, strict=True):
                memory[self.names[parameter]] = {"error": error}
            compressed = self._compressed(parameters)
            sizes = [self._factor_size(parameter) for parameter in compressed]
            factors = self.hook_state.q_memory_dict[index].split(sizes)
            for parameter, factor in zip(compressed, factors, strict=True):
                memory[self.names[parameter]]["q"] = factor
        return memory

    def forget(self) -> None:
        """After an update that was not taken: keep nothing of it that is not finite."""
        self._collect()
        for held in self._memory.values():
            held["error"].nan_to_num_(nan=0.0, posinf=0.0, neginf=0.0)
            held.pop("q", None)

    def gather(self) -> None:
        """Bring the memories of all processes to the first; all of them call it."""
        own = {
            name: {key: tensor.cpu().clone() for key, tensor in held.items()}
            for name, held in (self._memory | self._by_parameter()).items()
        }
        world = distributed.get_world_size()
        gathered: list[Any] = [None] * world
        first = distributed.get_rank() == 0
        distributed.gather_object(own, gathered if first else None)
        self._gathered = gathered if first else []

    def state_dict(self) -> dict[str, Any]:
        """Return what a resumed run needs, after `gather`."""
        return {"iter": self.hook_state.iter, "memories": self._gathered}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from `state_dict`. Raises `UserError`: another number of processes."""
        memories, world = state["memories"], distributed.get_world_size()
        if len(memories) != world:
            raise UserError(
                f"optimiser.power_sgd: the checkpoint has what {len(memories)} processes had still "
                f"to exchange, and there are {world}: start as many"
            )
        self._memory = memories[distributed.get_rank()]
        self.hook_state.iter = state["iter"]

    def rate(self) -> float:
        """How much smaller compression has made what is sent; 0 before it begins."""
        return self.hook_state.compression_stats()[0]


def compress_gradients(
    model: nn.Module, config: OptimiserConfig, accelerator: Accelerator
) -> PowerSGD:
    """Attach PowerSGD to a prepared model, as its config asks for it.

    Raises `UserError` where nothing is exchanged that could be compressed.
    """
    if not isinstance(model, DistributedDataParallel):
        raise UserError(
            f"optimiser.power_sgd={config.power_sgd} compresses what processes of data-parallel "
            f"training exchange, and this is {accelerator.num_processes} process"
            f"{'es, not wrapped for it' if accelerator.num_processes > 1 else ''}: leave it out"
        )
    return PowerSGD(model, config.power_sgd, config.power_sgd_start)
