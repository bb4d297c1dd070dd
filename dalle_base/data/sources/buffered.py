"""The order of a stream: a process's shards, a buffer of records at a time, each shuffled."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from dalle_base.common.errors import UserError
from dalle_base.common.files import write_file
from dalle_base.data.sources.base import Record
from dalle_base.data.sources.shards import Shard, Shards


class NothingWantedError(Exception):
    """A whole pass through a stream has no record to keep."""


class StreamOrder(NamedTuple):
    """Which batches of a stream a process wants."""

    batch_size: int
    seed: int
    start: int = 0
    """The update to begin with."""
    rank: int = 0
    world: int = 1
    folder: Path | None = None
    """Where places in the stream are kept: a resumed run then need not read it from its start."""


class Place(NamedTuple):
    """Where in a process's part of the data a buffer begins."""

    first: int = 0
    """Examples of this process before it."""
    epoch: int = 0
    at: int = 0
    """Shards of this pass before the one that is being read."""
    row: int = 0
    state: dict[str, Any] | None = None
    """That of the shard, after `row` rows."""


class Reader:
    """Reads a process's part of the data: a share of the shards in each pass, or of their rows."""

    def __init__(self, shards: Shards, order: StreamOrder, place: Place) -> None:
        self.shards, self.order = shards, order
        self.epoch, self.at = place.epoch, place.at
        self._mine = self._part()
        self._shard: Shard | None = None
        if place.state is not None:
            self._shard = shards.open(self._mine[self.at], place.row, place.state)

    def _part(self) -> list[int]:
        rng = np.random.default_rng((self.order.seed, self.epoch, 2))
        shards = rng.permutation(len(self.shards)).tolist()
        return shards if self._by_row else shards[self.order.rank :: self.order.world]

    @property
    def _by_row(self) -> bool:
        return len(self.shards) < self.order.world

    def read(self) -> Record | None:
        """Return the next record, or None at the end of a pass."""
        while True:
            if self._shard is None:
                self._shard = self.shards.open(self._mine[self.at])
            number = self._shard.row
            record = next(self._shard, None)
            if record is None:
                self._shard = None
                self.at += 1
                if self.at == len(self._mine):
                    self.epoch, self.at = self.epoch + 1, 0
                    self._mine = self._part()
                    return None
            elif not self._by_row or number % self.order.world == self.order.rank:
                return record

    def place(self, first: int) -> Place:
        """Return where the next record is; `first` examples came before."""
        if self._shard is None:
            return Place(first, self.epoch, self.at)
        return Place(first, self.epoch, self.at, self._shard.row, self._shard.state())


class Buffer:
    """Up to `size` records of one pass, read one at a time."""

    def __init__(self, reader: Reader, size: int, wanted: Callable[[Record], bool]) -> None:
        self.reader, self.size, self.wanted = reader, size, wanted
        self.records: list[Record] = []
        self.full = False
        self._passes = 0

    def read(self) -> None:
        """Read a record if there is room. Raises `NothingWantedError`."""
        while not self.full:
            record = self.reader.read()
            if record is None:
                self._passes += 1
                self.full = bool(self.records)
                # The first may have been the end of a pass that filled the buffer before.
                if not self.records and self._passes == 2:
                    raise NothingWantedError
            elif self.wanted(record):
                self.records.append(record)
                self.full = len(self.records) == self.size
                return


def shuffled_records(
    shards: Shards, order: StreamOrder, size: int, wanted: Callable[[Record], bool], places: Places
) -> Iterator[Record]:
    """Yield a process's records from `order.start` on, without end.

    While a buffer of `size` records is handed out in a random order, the next one is read.

    Raises:
        NothingWantedError: a whole pass has no record that is `wanted`.
        UserError: the data cannot be read.
    """
    start = order.start * order.batch_size
    place = places.before(start)
    reader = Reader(shards, order, place)
    buffer, first = Buffer(reader, size, wanted), place.first
    while True:
        while not buffer.full:
            buffer.read()
        records = buffer.records
        places.keep(reader.place(first + len(records)))
        buffer = Buffer(reader, size, wanted)
        rng = np.random.default_rng((order.seed, order.rank, first, 3))
        for number, chosen in enumerate(rng.permutation(len(records)).tolist(), first):
            if number < start:
                continue
            buffer.read()
            yield records[chosen]
        first += len(records)


class Places:
    """Where a process's buffers begin, kept in a file: a function of what `key` says."""

    def __init__(self, order: StreamOrder, key: str) -> None:
        """Read the file, if it is of the same `key`; else begin it anew."""
        self.key = hashlib.sha256(key.encode("utf-8", "replace")).hexdigest()
        self.file = None
        self.places = [Place()]
        if order.folder is not None:
            self.file = order.folder / f"stream-{order.rank}-of-{order.world}.jsonl"
            self._read(self.file)

    def _read(self, file: Path) -> None:
        lines = file.read_text("utf-8", errors="replace").splitlines() if file.is_file() else []
        whole = True
        try:
            if not lines or json.loads(lines[0]) != self.key:
                whole = False
            else:
                self.places += [Place(*json.loads(line)) for line in lines[1:]]
        except (ValueError, TypeError):  # the last line was being written
            whole = False
        if not whole:
            texts = [json.dumps(each) for each in (self.key, *self.places[1:])]
            text = "".join(f"{each}\n" for each in texts)

            def write(new: Path) -> None:
                new.write_text(text, "utf-8")

            write_file(file, write)

    def before(self, example: int) -> Place:
        """Return the last place that is kept before an example of this process."""
        return next(each for each in reversed(self.places) if each.first <= example)

    def keep(self, place: Place) -> None:
        """Keep a place, if it is a further one."""
        if place.first <= self.places[-1].first:
            return
        self.places.append(place)
        if self.file is not None:
            try:
                with self.file.open("a", encoding="utf-8") as file:
                    file.write(json.dumps(place) + "\n")
            except OSError as error:
                raise UserError(f"cannot write {self.file}: {error.strerror}") from None
