"""Batches of images in a reproducible order, loaded here or by processes in the background."""

import warnings
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from dalle_base.common.errors import UserError
from dalle_base.common.images import to_tensor
from dalle_base.data.image_dataset import Example, Failed, ImageDataset
from dalle_base.data.sources.base import Source, Subset
from dalle_base.data.sources.buffered import StreamOrder
from dalle_base.data.sources.streaming import StreamSource


class Shuffled:
    """Batches of (index, seed) keys in an endless shuffled order that depends on the seed alone.

    The batch of update n is a pure function of (seed, n), so an interrupted run goes on with
    exactly the images that an uninterrupted one would have seen. With several processes each
    gets its own slice of the global batch.
    """

    folder: Path | None = None
    """Where a stream may keep what it needs to go on from the middle."""

    def __init__(
        self, length: int, batch_size: int, seed: int, start: int = 0, rank: int = 0, world: int = 1
    ) -> None:
        self.length, self.batch_size, self.seed = length, batch_size, seed
        self.start, self.rank, self.world = start, rank, world

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        epoch, order = -1, np.empty(0, dtype=np.int64)
        update = self.start
        while True:
            first = (update * self.world + self.rank) * self.batch_size
            keys = []
            for number in range(first, first + self.batch_size):
                if number // self.length != epoch:
                    epoch = number // self.length
                    order = np.random.default_rng((self.seed, epoch)).permutation(self.length)
                seed = int(np.random.default_rng((self.seed, number, 1)).integers(2**63))
                keys.append((int(order[number % self.length]), seed))
            yield keys
            update += 1

    def as_of_stream(self) -> StreamOrder:
        """Return the same place in a stream, which has an order of its own."""
        return StreamOrder(
            self.batch_size, self.seed, self.start, self.rank, self.world, self.folder
        )


class _Loading(Dataset):
    """Whole batches, for a process in the background; an error's one line travels as a value."""

    def __init__(self, images: ImageDataset) -> None:
        self.images = images

    def __getitems__(self, keys: list[Any]) -> list[Example] | Failed:
        try:
            return self.images.batch(keys)
        except UserError as error:
            return Failed(str(error), getattr(error, "failures", ()))


def batches(images: ImageDataset, order: Shuffled, workers: int = 0) -> Iterator[list[Example]]:
    """Yield batches of examples in the given endless order, or in a stream's own.

    Batches are the same with any number of workers.

    Raises:
        UserError: too many images cannot be read, a stream has nothing to train on, or a worker
            was killed.
    """
    source = images.source
    if not isinstance(source, StreamSource):
        return _loaded(images, order, workers)
    keys = source.batches(order.as_of_stream())
    return _remembered(source, _loaded(images, keys, workers))


def _remembered(source: StreamSource, loaded: Iterator[list[Example]]) -> Iterator[list[Example]]:
    for examples in loaded:
        source.show({example.index: example.record for example in examples if example.record})
        yield examples


def _loaded(images: ImageDataset, keys: Iterable[Any], workers: int) -> Iterator[list[Example]]:
    if not workers:
        return map(images.batch, keys)
    with warnings.catch_warnings():
        # How many there are was chosen by the user, who may know more than the count of cores.
        warnings.filterwarnings("ignore", "This DataLoader will create", UserWarning)
        loader = DataLoader(
            _Loading(images),
            batch_sampler=keys,  # type: ignore[arg-type]  # endless, so it has no length
            num_workers=workers,
            collate_fn=_as_it_is,
            # Its own generator: a loader started later must not shift the run's random numbers.
            generator=torch.Generator(),
        )
        loaded = iter(loader)
    return _taken(images, loaded, workers)


def _taken(images: ImageDataset, loaded: Iterator[Any], workers: int) -> Iterator[list[Example]]:
    try:
        for each in loaded:
            yield images.take(each)
    except RuntimeError as error:
        if "DataLoader worker" not in str(error):
            raise
        raise UserError(
            "a process that loads images was killed, maybe for want of memory: lower "
            f"data.workers ({workers}) and start again"
        ) from None


def _as_it_is(loaded: Any) -> Any:
    return loaded


def shown_batches(
    images: ImageDataset, order: Shuffled, workers: int = 0
) -> Iterator[tuple[torch.Tensor, list[tuple[int, int]]]]:
    """Yield images [B, 3, S, S] in [0, 1], and the (index, seed) keys of what they show.

    An image that could not be read was replaced by another: the key is that one's.
    """
    for examples in batches(images, order, workers):
        shown = [(example.index, example.seed) for example in examples]
        yield to_tensor([example.pixels for example in examples]), shown


def some_of(source: Source, limit: int) -> Subset:
    """Return at most `limit` (0: all) of a source's records, always the same ones."""
    count = min(limit or len(source), len(source))
    chosen = np.random.default_rng(0).choice(len(source), count, replace=False)
    return Subset(source, sorted(chosen.tolist()))


def all_images(images: ImageDataset, limit: int = 0) -> list[np.ndarray]:
    """Return the first `limit` images (0: all), unaugmented or augmented with seed = index."""
    count = min(limit or len(images), len(images))
    return [images[i, i].pixels for i in range(count)]
