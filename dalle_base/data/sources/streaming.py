"""Data read as a stream: more than a disk holds, from the hub, tars or tables.

A process reads its own shards (files), a pass in a shuffled order of them. It fills a buffer, and
hands out the buffer's records in a random order while it reads the next one. What a batch holds is
a function of the seed, the data and the number of processes alone.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from dalle_base.common.errors import UserError
from dalle_base.data.sources.base import Record, Source
from dalle_base.data.sources.buffered import (
    NothingWantedError,
    Places,
    StreamOrder,
    shuffled_records,
)
from dalle_base.data.sources.shards import Shards, head, open_shards

if TYPE_CHECKING:
    from dalle_base.data.sources.stream import StreamConfig

TEXT_ROWS = 10_000
"""So many rows are read to learn the text encoding from."""


class StreamKey(NamedTuple):
    """An example to prepare: all that a process in the background needs."""

    index: int
    seed: int
    record: Record


class Listed:
    """Records in memory, as a source."""

    def __init__(self, records: list[Record], advice: str) -> None:
        """`advice` is what to do where none has a caption."""
        self.records, self.advice = records, advice

    def __len__(self) -> int:
        return len(self.records)

    def record(self, index: int) -> Record:
        return self.records[index]

    def has_caption(self, index: int) -> bool:
        return bool((self.records[index].caption or "").strip())

    def how_to_caption(self) -> str:
        """Return what to do where no record has a caption."""
        return self.advice


class StreamSource:
    """Records in the order of a stream. It has no length, and no record but those of a batch."""

    def __init__(self, config: StreamConfig, shards: Shards, apart: frozenset[bytes]) -> None:
        """`apart` are the digests of the records that are not to be trained on."""
        self.config, self.shards, self.apart = config, shards, apart
        self.needs_caption = False
        self._shown: Mapping[int, Record] = {}

    def __len__(self) -> int:
        raise UserError(
            "data.source=stream has no length, which this needs: use data.source=datasets or "
            "webdataset"
        )

    def with_captions(self) -> StreamSource:
        """Return the same stream of records that have a caption."""
        self.needs_caption = True
        return self

    def show(self, records: Mapping[int, Record]) -> None:
        """Make the records of a batch, without their images, those that `record` knows."""
        self._shown = records

    def record(self, index: int) -> Record:
        """Return a record of the latest batch, without its image."""
        return self._shown[index]

    def has_caption(self, index: int) -> bool:
        return bool((self.record(index).caption or "").strip())

    def how_to_caption(self) -> str:
        """Return what to do where no row has a caption."""
        return self.shards.advice

    def sample(self) -> Source:
        """Return some records, to learn the text encoding from."""
        found = head(self.shards, TEXT_ROWS, 1.0, images=False)
        kept = [each for each in found if (each.caption or "").strip()]
        if not kept:
            raise self._nothing()
        return Listed(kept, self.shards.advice)

    def wanted(self, record: Record) -> bool:
        """Whether a record is one to train on."""
        if self.needs_caption and not (record.caption or "").strip():
            return False
        return not self.apart or digest(record) not in self.apart

    def batches(self, order: StreamOrder) -> Iterator[list[StreamKey]]:
        """Yield the keys of batches from an update on, without end.

        Raises:
            UserError: nothing in the stream is to be trained on.
        """
        config = self.config
        parts = [self.shards.identity, self._columns(), str(config.buffer), str(order.seed)]
        places = Places(order, "\n".join(parts))
        records = shuffled_records(self.shards, order, config.buffer, self.wanted, places)
        update = order.start
        try:
            while True:
                first = (update * order.world + order.rank) * order.batch_size
                numbers = range(first, first + order.batch_size)
                yield [StreamKey(n, _seed(order.seed, n), next(records)) for n in numbers]
                update += 1
        except NothingWantedError:
            raise self._nothing() from None

    def _columns(self) -> str:
        """What decides which records are wanted."""
        apart = b"".join(sorted(self.apart)).hex()
        return f"{self.needs_caption} {self.config.caption_column} {apart}"

    def _nothing(self) -> UserError:
        lacks = "with a caption " if self.needs_caption else ""
        advice = f"; {self.how_to_caption()}" if self.needs_caption else ""
        return UserError(f"no image {lacks}to train on in {self.config.path!r}{advice}")


def open_stream(config: StreamConfig) -> tuple[StreamSource, Source]:
    """Return the training stream, and the held-out images, which are kept in memory."""
    if not config.path:
        raise UserError("data.path is empty; name tables, tars or a dataset")
    shards = open_shards(config, config.path)
    if config.held_out_path:
        measured = head(open_shards(config, config.held_out_path), config.held_out_count, 1.0)
        return StreamSource(config, shards, frozenset()), Listed(measured, shards.advice)
    measured = head(shards, config.held_out_count, config.held_out_share)
    # By content: a copy of a held-out image elsewhere in the data is not trained on either.
    apart = frozenset(digest(record) for record in measured)
    return StreamSource(config, shards, apart), Listed(measured, shards.advice)


def _seed(seed: int, number: int) -> int:
    return int(np.random.default_rng((seed, number, 1)).integers(2**63))


def digest(record: Record) -> bytes:
    """Return a hash of a record's image, or of where it is."""
    image = record.image
    content = image if isinstance(image, bytes) else str(image).encode("utf-8", "replace")
    return hashlib.sha256(content).digest()
