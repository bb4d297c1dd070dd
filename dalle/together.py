"""Several processes share candidates out: the first asks, all of them sample, the first writes."""

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import fields, replace
from typing import Any, TypeVar

import torch
from torch import Tensor, distributed

from dalle.config import Sampling
from dalle.generate import Progress, check_sampling
from dalle.text_to_image import Samples, TextToImage, join
from dalle_base.common.errors import UserError
from dalle_base.training.launched import launched_processes
from dalle_base.training.processes import count, rank

T = TypeVar("T")


@contextmanager
def together(device: str) -> Iterator[torch.device | None]:
    """Connect this process with those started beside it, for a while; yield its device.

    Yields None where there is no other. Raises `UserError` where they do not find one another.
    """
    if launched_processes() == 1:
        yield None
        return
    from dalle_base.training.launch import connect, leave

    if device.startswith("cpu"):
        os.environ["ACCELERATE_USE_CPU"] = "true"
    orderly = False
    try:
        yield connect("no").device
        if rank() == 0:
            told(None)  # there is nothing more to do
        orderly = True
    finally:
        leave(orderly)


def told(job: Any = None) -> Any:
    """Tell the other processes of a job; as one of them, wait for it. Returns the first's."""
    jobs: list[Any] = [job]
    distributed.broadcast_object_list(jobs, src=0)
    return jobs[0]


def share(first: int, candidates: int) -> tuple[int, int]:
    """Return this process's part of candidates that stand side by side: its first, and how many."""
    ends = [candidates * part // count() for part in (rank(), rank() + 1)]
    return first + ends[0], ends[1] - ends[0]


def gathered(work: Callable[[], T]) -> list[T]:
    """Return what the work of each process is, in their order; on all but the first nothing.

    Raises `UserError` on the first where one of them did.
    """
    try:
        done: Any = work()
    except UserError as error:
        done = error
    every: list[Any] | None = [None] * count() if rank() == 0 else None
    distributed.gather_object(done, every, dst=0)
    for part in every or []:
        if isinstance(part, UserError):
            raise part
    return every or []


def take_part(model: Any, kind: type[T]) -> T | Any:
    """Return a process's models as all processes together sample from them: as `kind`, a subclass.

    On all but the first it samples what the first one asks for, and returns None when that has
    nothing more to ask. Where there is one process the model is returned as it is.
    """
    if count() == 1:
        return model
    own: Any = kind(**{each.name: getattr(model, each.name) for each in fields(model)})
    if rank() == 0:
        return own
    while job := told():
        own.sample_share(*job)
    return None


class Shared(TextToImage):
    """Models of which each process has a copy; what the first is asked, all of them sample."""

    def batches(
        self,
        captions: str | Sequence[str],
        sampling: Sampling,
        given: Tensor | None = None,
        progress: Callable[[Progress], None] | None = None,
    ) -> Iterator[Samples]:
        """Sample as one process does, all in one batch; `progress` is that of the first."""
        captions = [captions] if isinstance(captions, str) else list(captions)
        check_sampling(self.transformer, sampling)
        self.tokens(captions)  # what is refused is refused here, and the others wait on
        job = (captions, sampling, given)
        told(job)
        parts = self.sample_share(*job, progress)
        order = [
            (row * len(captions) // max(1, len(part.images)), candidate)
            for part in parts
            for row, candidate in enumerate(part.candidates)
        ]
        joined = join(part for part in parts if part.images)
        yield joined.select(sorted(range(len(order)), key=order.__getitem__))

    def sample_share(
        self,
        captions: list[str],
        sampling: Sampling,
        given: Tensor | None,
        progress: Callable[[Progress], None] | None = None,
    ) -> list[Samples]:
        """Sample this process's share; return all shares on the first, nothing on the others."""
        first, candidates = share(sampling.first, sampling.candidates)

        def own() -> Samples:
            if not candidates:
                return Samples([], torch.empty(0), torch.empty(0), [], [], [])
            part = replace(sampling, first=first, candidates=candidates)
            return join(super(Shared, self).batches(captions, part, given, progress))

        return gathered(own)
