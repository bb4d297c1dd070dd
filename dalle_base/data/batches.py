"""Batches of images in a reproducible order, each augmented by random numbers of its own."""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm

from dalle_base.common.errors import UserError
from dalle_base.common.images import (
    UnreadableImageError,
    centre_square,
    open_image,
    to_array,
    to_tensor,
)
from dalle_base.data.augment import augment
from dalle_base.data.config import AugmentConfig
from dalle_base.data.sources.base import Source, Subset, first_with_same_image


class Example(NamedTuple):
    """One prepared image."""

    index: int
    pixels: np.ndarray
    """uint8 [3, H, W]."""


class ImageDataset(Dataset):
    """A source's images, augmented or not, as uint8 arrays.

    An image that cannot be read is named once, counted in `skipped` and replaced by the next one.
    """

    def __init__(self, source: Source, size: int, augmentation: AugmentConfig | None) -> None:
        self.source, self.size, self.augmentation = source, size, augmentation
        self.skipped: set[str] = set()

    def __len__(self) -> int:
        return len(self.source)

    def first_with_same_image(self, index: int) -> int:
        """Return the first index that shows what `index` shows: a mixture repeats images."""
        return first_with_same_image(self.source, index)

    def __getitem__(self, key: tuple[int, int]) -> Example:
        """Return image `index`, augmented by random numbers of `seed`; `key` is both."""
        index, seed = key
        for offset in range(len(self)):
            at = (index + offset) % len(self)
            record = self.source.record(at)
            try:
                image = open_image(record.image, record.name)
            except UnreadableImageError as error:
                if record.name not in self.skipped:
                    self.skipped.add(record.name)
                    tqdm.write(f"skipped an unreadable image ({len(self.skipped)} so far): {error}")
                continue
            if self.augmentation is None:
                return Example(at, to_array(centre_square(image, self.size)))
            rng = np.random.default_rng(seed)
            varied = augment(image, self.size, self.augmentation, rng, record.mirrorable)
            return Example(at, to_array(varied))
        raise UserError(f"none of the {len(self)} images can be read (see the lines above)")


class Shuffled:
    """Batches of (index, seed) keys in an endless shuffled order that depends on the seed alone.

    The batch of update n is a pure function of (seed, n), so an interrupted run goes on with
    exactly the images that an uninterrupted one would have seen. With several processes each
    gets its own slice of the global batch.
    """

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


def batches(images: ImageDataset, order: Shuffled, workers: int = 0) -> Iterator[list[Example]]:
    """Yield batches of examples in the given endless order."""
    loader = DataLoader(
        images,
        batch_sampler=order,  # type: ignore[arg-type]  # endless, so it has no length
        num_workers=workers,
        collate_fn=list,
        # Its own generator: a loader started later must not shift the run's random numbers.
        generator=torch.Generator(),
    )
    return iter(loader)


def shown_batches(
    images: ImageDataset, order: Shuffled, workers: int = 0
) -> Iterator[tuple[torch.Tensor, list[tuple[int, int]]]]:
    """Yield images [B, 3, S, S] in [0, 1], and the (index, seed) keys of what they show.

    An image that could not be read was replaced by another: the key is that one's.
    """
    for keys, examples in zip(order, batches(images, order, workers), strict=True):
        shown = [(example.index, seed) for example, (_, seed) in zip(examples, keys, strict=True)]
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
