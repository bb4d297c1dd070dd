"""A source's images as arrays, augmented by random numbers of their keys."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from torch.utils.data import Dataset, get_worker_info

from dalle_base.common.errors import UserError
from dalle_base.common.images import UnreadableImageError, centre_square, open_image, to_array
from dalle_base.data.augment import augment
from dalle_base.data.config import AugmentConfig
from dalle_base.data.skips import Skips
from dalle_base.data.sources.base import Record, Source, first_with_same_image
from dalle_base.data.sources.streaming import StreamKey, StreamSource

MOST_IN_A_ROW = 1000
"""After so many unreadable images one after the other no further one is tried."""


class NoneReadableError(UserError):
    """No image could stand in for one that cannot be read."""

    def __init__(self, failures: Sequence[tuple[str, str]], total: int) -> None:
        """`failures` are names and reasons; `total` is how many images the source has."""
        self.failures = tuple(failures)
        which = f"the {total} images" if len(failures) == total else f"{len(failures)} in a row"
        super().__init__(f"none of {which} can be read (see the lines above)")


class Example(NamedTuple):
    """One prepared image."""

    index: int
    pixels: np.ndarray
    """uint8 [3, H, W]."""
    seed: int = 0
    failures: tuple[tuple[str, str], ...] = ()
    """Names of images that were tried first and could not be read, with the reasons."""
    record: Record | None = None
    """Of a stream's example: its record, without the image."""


class Failed(NamedTuple):
    """What a background process hands over in place of a batch that cannot be had."""

    message: str
    failures: tuple[tuple[str, str], ...]


class ImageDataset(Dataset):
    """A source's images, augmented or not, as uint8 arrays.

    An image that cannot be read is named once, counted and replaced by the next one.
    """

    def __init__(
        self,
        source: Source,
        size: int,
        augmentation: AugmentConfig | None,
        max_skipped: float = 1.0,
    ) -> None:
        """Prepare to open images.

        Args:
            source: of the images; a stream can only be read by `batches`.
            size: their side in pixels.
            augmentation: None: the centre, as it is.
            max_skipped: the largest share that may be unreadable (data.max_skipped); 1: any.
        """
        self.source, self.size, self.augmentation = source, size, augmentation
        self.skips = Skips(max_skipped)

    def __len__(self) -> int:
        return len(self.source)

    @property
    def count(self) -> int:
        """How many images a pass has; 0 for a stream, which does not know."""
        return 0 if isinstance(self.source, StreamSource) else len(self.source)

    @property
    def described(self) -> str:
        """How many images there are, for a line on the screen."""
        return str(self.count) if self.count else "streamed"

    @property
    def skipped(self) -> set[str]:
        """The names of the images that could not be read so far."""
        return self.skips.names

    def first_with_same_image(self, index: int) -> int:
        """Return the first index that shows what `index` shows: a mixture repeats images."""
        return first_with_same_image(self.source, index)

    def __getitem__(self, key: tuple[int, int]) -> Example:
        """Return image `index`, augmented by random numbers of `seed`; `key` is both.

        Raises:
            UserError: none can be read, or more than may be skipped.
        """
        index, seed = key
        failures: list[tuple[str, str]] = []
        for offset in range(min(len(self), MOST_IN_A_ROW)):
            at = (index + offset) % len(self)
            record = self.source.record(at)
            try:
                pixels = self._pixels(record, seed)
            except UnreadableImageError as error:
                failures.append((record.name, str(error)))
                self._name(failures[-1:])
                continue
            self._count(failures)
            return Example(at, pixels, seed, tuple(failures))
        raise NoneReadableError(failures, len(self))

    def batch(self, keys: Sequence[tuple[int, int] | StreamKey]) -> list[Example]:
        """Return the examples of a batch's keys. Raises `UserError` as `__getitem__` does."""
        return [
            self._of_stream(keys, number) if isinstance(key, StreamKey) else self[key]
            for number, key in enumerate(keys)
        ]

    def _of_stream(self, keys: Sequence, number: int) -> Example:
        """The example of a stream's key, or the next in its batch whose image can be read."""
        failures: list[tuple[str, str]] = []
        for offset in range(len(keys)):
            key = keys[(number + offset) % len(keys)]
            try:
                pixels = self._pixels(key.record, keys[number].seed)
            except UnreadableImageError as error:
                failures.append((key.record.name, str(error)))
                self._name(failures[-1:])
                continue
            self._count(failures)
            told = key.record._replace(image=b"")
            return Example(key.index, pixels, keys[number].seed, tuple(failures), told)
        raise NoneReadableError(failures, 0)

    def _pixels(self, record: Record, seed: int) -> np.ndarray:
        image = open_image(record.image, record.name)
        if self.augmentation is None:
            return to_array(centre_square(image, self.size))
        rng = np.random.default_rng(seed)
        return to_array(augment(image, self.size, self.augmentation, rng, record.mirrorable))

    # A process in the background only reports: what is said and counted are those of all.

    def _name(self, failures: Sequence[tuple[str, str]]) -> None:
        if get_worker_info() is None:
            for name, reason in failures:
                self.skips.name(name, reason)

    def _count(self, failures: Sequence[tuple[str, str]]) -> None:
        # By the image that was asked for: of its stand-ins there may be any number.
        if get_worker_info() is None:
            self.skips.count(bool(failures), failures[0][1] if failures else "")

    def take(self, loaded: list[Example] | Failed) -> list[Example]:
        """Return what a background process loaded, once it is counted. Raises its `UserError`."""
        if isinstance(loaded, Failed):
            self._name(loaded.failures)
            raise UserError(loaded.message)
        for example in loaded:
            self._name(example.failures)
            self._count(example.failures)
        return loaded
