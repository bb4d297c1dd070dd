"""The shards (files) of a stream: opened one by one, each from its start or where it was left."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dalle_base.common.errors import UserError
from dalle_base.data.sources.at_path import TAR, files_under, matching
from dalle_base.data.sources.base import Record
from dalle_base.data.sources.hub import Columns, DatasetsConfig
from dalle_base.data.sources.loading import Beside, Loaded, first_line, load
from dalle_base.data.sources.webdataset import caption_advice, rows_of, tars_at

if TYPE_CHECKING:
    from dalle_base.data.sources.stream import StreamConfig

MOST_SHARDS = 8
"""So many shards, evenly spread, does `head` read from: data is often sorted."""

Convert = Callable[[dict[str, Any], int, int], Record]
"""From a row, the number of its shard and its own number there to a record."""


class Shards:
    """All shards of a stream."""

    def __init__(self, rows: Any, convert: Convert, identity: str, advice: str) -> None:
        """Prepare to read shards.

        Args:
            rows: `datasets.IterableDataset`.
            convert: makes a record of a row.
            identity: another one where the data is another.
            advice: what to do where no row has a caption.
        """
        self.rows, self.convert, self.identity, self.advice = rows, convert, identity, advice

    def __len__(self) -> int:
        return self.rows.num_shards

    def open(self, number: int, row: int = 0, state: dict[str, Any] | None = None) -> Shard:
        """Open a shard from its start, or after `row` rows with the `state` that it had there."""
        rows = self.rows.shard(len(self), number)
        if state is not None:
            rows.load_state_dict(state)
        return Shard(self, rows, number, row)


class Shard:
    """Iterates over the records of a shard; knows where it is."""

    def __init__(self, shards: Shards, rows: Any, number: int, row: int) -> None:
        self.shards, self.number, self.row = shards, number, row
        self._rows = rows
        self._iterator: Iterator[dict[str, Any]] | None = None

    def __iter__(self) -> Iterator[Record]:
        return self

    def __next__(self) -> Record:
        try:
            self._iterator = self._iterator or iter(self._rows)
            row = next(self._iterator)
        except (StopIteration, UserError):
            raise
        except Exception as error:
            raise UserError(
                f"{self.shards.identity.splitlines()[0]}: reading stopped after row {self.row} of "
                f"shard {self.number}: {first_line(error)}; the same command resumes"
            ) from None
        self.row += 1
        return self.shards.convert(row, self.number, self.row - 1)

    def state(self) -> dict[str, Any]:
        """Return what `Shards.open` takes to go on from here: plain values."""
        return self._rows.state_dict()


def open_shards(config: StreamConfig, path: str) -> Shards:
    """Open what is at a path, local tars or what `datasets` can stream. Raises `UserError`."""
    found = files_under(Path(path)) if Path(path).is_dir() else iter(matching(path))
    if any(each.suffix.lower() == TAR for each in found):
        return _of_tars(config, path)
    loaded = load(path, config.split, streaming=True)
    columns = Columns(config, path, loaded.rows)
    rows = columns.undecoded(loaded.rows)
    files = loaded.files.paths if loaded.files else []
    if len(files) == rows.num_shards:  # then each has its own folder of images
        beside = [Beside(Loaded(None, None, [each.parent])) for each in files]
    else:
        beside = [Beside(loaded)] * rows.num_shards

    def convert(row: dict[str, Any], shard: int, number: int) -> Record:
        name = f"{files[shard] if files else path} row {number}"
        return columns.record(row, name, beside[shard], number)

    return Shards(rows, convert, _identity(path, list(files)), columns.how_to_caption())


def _of_tars(config: StreamConfig, path: str) -> Shards:
    import datasets

    tars = tars_at(path)
    # A stream's columns are those of tables unless they are set: tars then have their own.
    image, caption = (
        "" if getattr(config, name) == getattr(DatasetsConfig, name) else getattr(config, name)
        for name in ("image_column", "caption_column")
    )
    options = {"tars": [str(each) for each in tars], "image": image, "caption": caption}
    rows = datasets.IterableDataset.from_generator(rows_of, gen_kwargs=options)

    def convert(row: dict[str, Any], shard: int, _: int) -> Record:
        texts = row["captions"]
        name = f"{tars[shard]}:{row['name']}"
        first = texts[0] if texts else None
        return Record(name, row["image"], first, other_captions=tuple(texts[1:]))

    return Shards(rows, convert, _identity(path, tars), caption_advice(tars[0], caption))


def _identity(path: str, files: list[Path]) -> str:
    return "\n".join([path, *(f"{each.name} {each.stat().st_size}" for each in files)])


def head(shards: Shards, count: int, share: float, images: bool = True) -> list[Record]:
    """Return the first records of some shards.

    Args:
        shards: to read from.
        count: of the records, about.
        share: of a shard with few records (less than twice those wanted of it), at most this share.
        images: keep their images.
    """
    wanted = min(len(shards), MOST_SHARDS, count)
    each = -(-count // wanted)
    taken: list[Record] = []
    for place in range(wanted):
        found: list[Record] = []
        length = 0
        for record in shards.open(place * len(shards) // wanted):
            length += 1
            if len(found) < each:
                found.append(record if images else record._replace(image=b""))
            if length == (2 * each if share < 1 else each):
                break
        if share < 1 and length < 2 * each:
            fewest = 1 if share and not taken and place == wanted - 1 else 0
            found = found[: max(fewest, round(share * length))]
        taken += found
    return taken[:count]
