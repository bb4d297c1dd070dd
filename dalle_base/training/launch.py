"""How the processes of a run start together, and how they end together."""

import contextlib
import datetime
import os
import time
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedDataParallelKwargs, InitProcessGroupKwargs
from torch import distributed
from torch.distributed import distributed_c10d

from dalle_base.common.errors import UserError
from dalle_base.training import processes, watchdog
from dalle_base.training.launched import HOW, launched_processes

FSDP = "ACCELERATE_USE_FSDP"
LONGEST_WAIT = datetime.timedelta(hours=12)
"""How long one process may work while the others wait: the first encodes all images, say. A process
that ends is noticed at once (`watchdog`), so this bounds only a wait for one that hangs."""
LEAVING = 60.0
"""Seconds that the first process waits for the others to be gone."""
SETTLING = 0.05
"""Seconds in which gloo's threads are done with what the last message held."""


def connect(precision: str) -> Accelerator:
    """Return the run's `Accelerator`, connected to the other processes, if any.

    Raises:
        UserError: a precision that the device lacks, or processes that do not find one another, or
            that were started in a way which would leave each of them alone.
    """
    launched = launched_processes()
    on_cpu = launched > 1 and (_asked_for_cpu() or not _has_gpu())
    if launched > 1 and not on_cpu:
        _check_devices()
    if precision == "fp16" and (on_cpu or _asked_for_cpu() or not torch.accelerator.is_available()):
        raise UserError(
            "run.mixed_precision=fp16: no effect on a CPU, where this run would be; use bf16 or no"
        )
    # Sharding is ours (`sharding.py`): accelerate's own would ask for model and optimiser at once.
    os.environ.pop(FSDP, None)
    handlers = [
        InitProcessGroupKwargs(timeout=LONGEST_WAIT),
        # Gradients live in the buckets that are exchanged, not beside them.
        DistributedDataParallelKwargs(gradient_as_bucket_view=True),
    ]
    try:
        # Without cpu=True accelerate overlooks processes on a machine that has no GPU.
        accelerator = Accelerator(cpu=on_cpu, mixed_precision=precision, kwargs_handlers=handlers)
    except ValueError as error:
        leave(orderly=False)
        if launched > 1 and not distributed.is_initialized() and "environment" in str(error):
            raise UserError(f"{launched} processes: {_first_line(error)}; {HOW}") from None
        raise UserError(f"run.mixed_precision={precision}: {_first_line(error)}") from None
    except (RuntimeError, OSError) as error:
        if launched == 1:
            raise
        raise UserError(
            f"the {launched} processes do not find one another ({_first_line(error)}): check that "
            "all were started, and MASTER_ADDR and MASTER_PORT"
        ) from None
    if accelerator.num_processes != launched:
        leave(orderly=False)
        raise UserError(
            f"{launched} processes were started, but each would train alone "
            f"(accelerate counts {accelerator.num_processes}); {HOW}"
        )
    if accelerator.num_processes > 1:
        watchdog.start(_store())
    return accelerator


def wants_sharding() -> bool:
    """Whether `accelerate launch` was asked for FSDP."""
    return os.environ.get(FSDP, "").lower() in ("1", "true", "yes")


def _asked_for_cpu() -> bool:
    return os.environ.get("ACCELERATE_USE_CPU", "").lower() in ("1", "true", "yes")


def _has_gpu() -> bool:
    return torch.accelerator.is_available() and not torch.backends.mps.is_available()


def _check_devices() -> None:
    here = os.environ.get("LOCAL_WORLD_SIZE", "1")
    there = torch.accelerator.device_count()
    if here.isdecimal() and int(here) > there:
        raise UserError(
            f"{here} processes on a machine with {there} GPU{'s' * (there > 1)}: start at most one "
            "for each, or set ACCELERATE_USE_CPU=true to train on its CPUs"
        )


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:200]


def _store() -> distributed_c10d.Store:
    """A connection of its own to what the processes write notes in."""
    store: Any = distributed_c10d._get_default_store()
    return distributed_c10d.PrefixStore("dalle", store.clone())


def leave(orderly: bool) -> None:
    """Leave the other processes of a run: after all have come to their end, if `orderly`.

    They meet in the store and not by a message that one may still read while the other hangs up,
    and the first process, which may hold the store, goes last.
    """
    # Left to the interpreter's exit, a process that is still connected aborts now and then.
    if not (distributed.is_available() and distributed.is_initialized()):
        return
    if not orderly or not processes.several():
        watchdog.stop("" if orderly else "ended with an error")
        hang_up()
        return
    store, first, others = _store(), processes.rank() == 0, processes.count() - 1
    if store.add("ended", 1) > others:
        store.set("all ended", "")
    while not store.check(["all ended"]):
        time.sleep(0.02)  # the watchdog ends the wait for one that is lost
    watchdog.stop()
    hang_up()
    with contextlib.suppress(RuntimeError):  # the first waits no longer
        left, until = store.add("left", 0 if first else 1), time.monotonic() + LEAVING
        while first and left < others and time.monotonic() < until:
            time.sleep(0.02)
            left = store.add("left", 0)


def lost_process(error: BaseException | None) -> UserError | None:
    """What to say of an error that comes of another process's end; None for any other error."""
    if not processes.several() or not isinstance(error, RuntimeError):
        return None
    if not isinstance(error, distributed.DistError) and "gloo" not in str(error).lower():
        return None
    return UserError(watchdog.farewell(f"process {processes.rank()} lost its connection"))


def hang_up() -> None:
    """Give up the connection to the other processes, all of whose messages have come."""
    # The last to hold the group may be DDP's reducer, which frees it with Python's lock held and
    # waits for gloo's threads; one of these may need the lock to free what the last message held.
    # Asleep, we let them have it first.
    time.sleep(SETTLING)
    distributed.destroy_process_group()
