"""Captioned pictures from a folder, from any dataset that `datasets` loads, or drawn in code.

ADD A SOURCE = one class with the methods of `Source`, and one line in SOURCES: how a config's
training and held-out pictures are opened, which for data that has a path is `open_paths`.
"""

import csv
import hashlib
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, Protocol, cast, get_args

import numpy as np
import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm

from corpora.shapes import Split, described_scene, render
from training.errors import UserError
from training.pictures import (
    AugmentConfig,
    UnreadablePictureError,
    augment,
    centre_square,
    open_picture,
    to_array,
    to_tensor,
)

SUFFIXES = {".png", ".jpg", ".jpeg", ".webp", ".gif", ".bmp"}
CAPTION_COLUMNS = ("caption", "text")


@dataclass
class DataConfig:
    """Where captioned pictures come from and how they are prepared."""

    source: str = "folder"
    """folder (images with captions beside them), datasets (parquet or a hub name) or shapes."""
    path: str = ""
    """The folder; parquet files (a glob works) or a dataset's name for `datasets`."""
    split: str = "train"
    """Split to read, for `datasets` by name and for shapes."""
    held_out_path: str = ""
    """Pictures to measure on, as `path`; where empty, a share of the training set is set aside."""
    held_out_share: float = 0.05
    """Share of the pictures set aside where held_out_path is empty."""
    image_column: str = "image"
    """Column with the picture, for `datasets`."""
    caption_column: str = "caption"
    """Column with the caption, for `datasets`."""
    artist_column: str = ""
    """Column whose value becomes ", VALUE style" behind half of the captions, if any."""
    keywords_column: str = ""
    """Column with a list of words that sometimes stand in for the caption, if any."""
    mirrorable_column: str = ""
    """Column that says whether a picture and its caption survive a horizontal flip, if any."""
    count: int = 20000
    """Number of scenes before they repeat, for shapes."""
    workers: int = 0
    """Processes that load pictures in the background."""
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    """Augmentation of training pictures."""

    def validate(self) -> None:
        """Raise `UserError` on impossible values."""
        if self.source not in SOURCES:
            raise UserError(f"data.source is {self.source!r}; use one of {', '.join(SOURCES)}")
        if not 0 <= self.held_out_share < 1:
            raise UserError("data.held_out_share must be in [0, 1)")


class Record(NamedTuple):
    """One captioned picture before decoding."""

    name: str
    """What an error message calls it: a path, or the dataset with its row."""
    image: Path | bytes | Image.Image | Callable[[], Image.Image]
    caption: str | None
    artist: str = ""
    keywords: tuple[str, ...] = ()
    mirrorable: bool = True


class Source(Protocol):
    """Random access to records."""

    def __len__(self) -> int: ...

    def record(self, index: int) -> Record: ...

    def has_caption(self, index: int) -> bool: ...


class FolderSource:
    """Images under a folder; captions in metadata.csv / metadata.jsonl, or a .txt beside each.

    The metadata files follow the `datasets` library's ImageFolder: a `file_name` column relative
    to the folder, and a `caption` or `text` column.
    """

    def __init__(self, config: DataConfig, path: str) -> None:
        self.folder = Path(path)
        if not self.folder.is_dir():
            raise UserError(f"data folder {path!r} does not exist; set data.path")
        self.files = sorted(p for p in self.folder.rglob("*") if p.suffix.lower() in SUFFIXES)
        if not self.files:
            kinds = ", ".join(sorted(SUFFIXES))
            raise UserError(f"no pictures under {self.folder.resolve()} (looked for {kinds})")
        self.captions = self._metadata()

    def _metadata(self) -> dict[Path, str]:
        rows: list[dict[str, Any]] = []
        table, lines = self.folder / "metadata.csv", self.folder / "metadata.jsonl"
        try:
            if table.exists():
                rows = list(csv.DictReader(table.read_text("utf-8").splitlines()))
            elif lines.exists():
                rows = [json.loads(line) for line in lines.read_text("utf-8").splitlines() if line]
        except (ValueError, UnicodeDecodeError) as error:
            raise UserError(f"captions in {self.folder}: not readable: {error}") from None
        captions = {}
        for row in rows:
            column = next((name for name in CAPTION_COLUMNS if row.get(name)), None)
            if "file_name" not in row or column is None:
                raise UserError(
                    f"captions in {self.folder}: each row needs file_name and "
                    f"{' or '.join(CAPTION_COLUMNS)}; found {', '.join(map(str, row))}"
                )
            captions[self.folder / row["file_name"]] = row[column]
        return captions

    def __len__(self) -> int:
        return len(self.files)

    def record(self, index: int) -> Record:
        path = self.files[index]
        caption = self.captions.get(path)
        beside = path.with_suffix(".txt")
        if caption is None and beside.exists():
            caption = beside.read_text("utf-8", errors="replace").strip()
        return Record(str(path), path, caption)

    def has_caption(self, index: int) -> bool:
        return bool((self.record(index).caption or "").strip())


class DatasetsSource:
    """Parquet files, or any dataset that the `datasets` library loads by name."""

    def __init__(self, config: DataConfig, path: str) -> None:
        import datasets

        self.config, self.path = config, path
        try:
            if path.endswith(".parquet"):
                if not list(Path().glob(path) if not Path(path).is_absolute() else [Path(path)]):
                    raise UserError(f"no parquet file matches {path!r}; set data.path")
                rows = datasets.load_dataset("parquet", data_files=path, split="train")
            else:
                rows = datasets.load_dataset(path, split=config.split)
        except UserError:
            raise
        except Exception as error:
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            raise UserError(f"dataset {path!r} cannot be loaded: {reason}") from None
        assert isinstance(rows, datasets.Dataset)
        wanted = [config.image_column, config.artist_column, config.keywords_column]
        for column in [*wanted, config.mirrorable_column]:
            if column and column not in rows.column_names:
                raise UserError(
                    f"dataset {path!r} has no column {column!r}; it has "
                    f"{', '.join(rows.column_names)}"
                )
        # Decoding is left to `open_picture`, so that one bad row does not end the training.
        has_captions = config.caption_column in rows.column_names
        self.captions = list(rows[config.caption_column]) if has_captions else []
        self.rows = rows.cast_column(config.image_column, datasets.Image(decode=False))
        if not len(self.rows):
            raise UserError(f"dataset {path!r} is empty")

    def __len__(self) -> int:
        return len(self.rows)

    def record(self, index: int) -> Record:
        row, config = self.rows[index], self.config
        cell = row[config.image_column]
        return Record(
            f"{self.path} row {index}",
            cell["bytes"] if cell["bytes"] is not None else Path(cell["path"]),
            row.get(config.caption_column),
            row[config.artist_column] if config.artist_column else "",
            tuple(row[config.keywords_column] or ()) if config.keywords_column else (),
            bool(row[config.mirrorable_column]) if config.mirrorable_column else True,
        )

    def has_caption(self, index: int) -> bool:
        return bool(self.captions and (self.captions[index] or "").strip())


class ShapesSource:
    """Scenes drawn in code: `count` of them, each with its caption."""

    def __init__(self, split: str, count: int) -> None:
        if split not in get_args(Split):
            known = ", ".join(get_args(Split))
            raise UserError(f"data.split is {split!r}; shapes has {known}")
        self.split: Split = cast(Split, split)
        self.count = count

    def __len__(self) -> int:
        return self.count

    def record(self, index: int) -> Record:
        scene, caption = described_scene(self.split, 0, index)
        # Drawn on demand: stage two reads captions far more often than pictures.
        return Record(f"shapes {self.split} {index}", partial(render, scene), caption)

    def has_caption(self, index: int) -> bool:
        return True


class Subset:
    """Some of a source's records."""

    def __init__(self, source: Source, indices: list[int]) -> None:
        self.source, self.indices = source, indices

    def __len__(self) -> int:
        return len(self.indices)

    def record(self, index: int) -> Record:
        return self.source.record(self.indices[index])

    def has_caption(self, index: int) -> bool:
        return self.source.has_caption(self.indices[index])


def open_shapes(config: DataConfig) -> tuple[Source, Source]:
    """Return data.count scenes of data.split, and as many of the "test" split."""
    return ShapesSource(config.split, config.count), ShapesSource("test", config.count)


def open_paths(
    make: Callable[[DataConfig, str], Source], config: DataConfig
) -> tuple[Source, Source]:
    """Return what is at data.path and data.held_out_path, or a share of the former set aside."""
    if not config.path:
        raise UserError("data.path is empty; name a folder, parquet files or a dataset")
    source = make(config, config.path)
    if config.held_out_path:
        return source, make(config, config.held_out_path)
    # By a hash of the position, so that the choice is spread evenly and never changes.
    held_out = [i for i in range(len(source)) if _unit_hash(i) < config.held_out_share]
    if config.held_out_share and not held_out:
        held_out = [0]  # a tiny folder still has something to measure on
    kept = sorted(set(range(len(source))) - set(held_out)) or held_out
    return Subset(source, kept), Subset(source, held_out or kept)


def _unit_hash(index: int) -> float:
    digest = hashlib.blake2b(str(index).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") / 2**64


SOURCES: dict[str, Callable[[DataConfig], tuple[Source, Source]]] = {
    "folder": partial(open_paths, FolderSource),
    "datasets": partial(open_paths, DatasetsSource),
    "shapes": open_shapes,
}


def open_sources(config: DataConfig) -> tuple[Source, Source]:
    """Return the training and the held-out source. Raises `UserError` where there is nothing."""
    return SOURCES[config.source](config)


def captioned(source: Source) -> Source:
    """Return the records that have a caption; say how many have none. Raises if none has."""
    with_caption = [i for i in range(len(source)) if source.has_caption(i)]
    missing = len(source) - len(with_caption)
    if not with_caption:
        raise UserError(
            f"none of the {len(source)} pictures has a caption (first: {source.record(0).name}); "
            "add a metadata.csv with file_name and caption, or a .txt beside each picture"
        )
    if missing:
        tqdm.write(f"left out {missing} of {len(source)} pictures without a caption")
    return Subset(source, with_caption) if missing else source


class Example(NamedTuple):
    """One prepared picture."""

    index: int
    pixels: np.ndarray
    """uint8 [3, H, W]."""


class Pictures(Dataset):
    """A source's pictures, augmented or not, as uint8 arrays.

    A picture that cannot be read is named once, counted in `skipped` and replaced by the next one.
    """

    def __init__(self, source: Source, size: int, augmentation: AugmentConfig | None) -> None:
        self.source, self.size, self.augmentation = source, size, augmentation
        self.skipped: set[str] = set()

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, key: tuple[int, int]) -> Example:
        """Return picture `index`, augmented by random numbers of `seed`; `key` is both."""
        index, seed = key
        for offset in range(len(self)):
            at = (index + offset) % len(self)
            record = self.source.record(at)
            try:
                image = open_picture(record.image, record.name)
            except UnreadablePictureError as error:
                if record.name not in self.skipped:
                    self.skipped.add(record.name)
                    tqdm.write(
                        f"skipped an unreadable picture ({len(self.skipped)} so far): {error}"
                    )
                continue
            if self.augmentation is None:
                return Example(at, to_array(centre_square(image, self.size)))
            rng = np.random.default_rng(seed)
            varied = augment(image, self.size, self.augmentation, rng, record.mirrorable)
            return Example(at, to_array(varied))
        raise UserError(f"none of the {len(self)} pictures can be read (see the lines above)")


class Shuffled:
    """Batches of (index, seed) keys in an endless shuffled order that depends on the seed alone.

    The batch of update n is a pure function of (seed, n), so an interrupted run goes on with
    exactly the pictures that an uninterrupted one would have seen. With several processes each
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


def batches(pictures: Pictures, order: Shuffled, workers: int = 0) -> Iterator[list[Example]]:
    """Yield batches of examples in the given endless order."""
    loader = DataLoader(
        pictures,
        batch_sampler=order,  # type: ignore[arg-type]  # endless, so it has no length
        num_workers=workers,
        collate_fn=list,
        # Its own generator: a loader started later must not shift the run's random numbers.
        generator=torch.Generator(),
    )
    return iter(loader)


def shown_batches(
    pictures: Pictures, order: Shuffled, workers: int = 0
) -> Iterator[tuple[torch.Tensor, list[tuple[int, int]]]]:
    """Yield pictures [B, 3, S, S] in [0, 1], and the (index, seed) keys of what they show.

    A picture that could not be read was replaced by another: the key is that one's.
    """
    for keys, drawn in zip(order, batches(pictures, order, workers), strict=True):
        shown = [(example.index, seed) for example, (_, seed) in zip(drawn, keys, strict=True)]
        yield to_tensor([example.pixels for example in drawn]), shown


def some_of(source: Source, limit: int) -> Subset:
    """Return at most `limit` (0: all) of a source's records, always the same ones."""
    count = min(limit or len(source), len(source))
    chosen = np.random.default_rng(0).choice(len(source), count, replace=False)
    return Subset(source, sorted(chosen.tolist()))


def all_pictures(pictures: Pictures, limit: int = 0) -> list[np.ndarray]:
    """Return the first `limit` pictures (0: all), unaugmented or augmented with seed = index."""
    count = min(limit or len(pictures), len(pictures))
    return [pictures[i, i].pixels for i in range(count)]


def with_artist(record: Record) -> str:
    """Return a caption that also names the artist, where there is one."""
    caption = record.caption or ""
    return f"{caption}, {record.artist} style" if record.artist else caption


def vary_caption(record: Record, rng: np.random.Generator) -> str:
    """Return a caption for training: the caption itself or keywords, half with its artist."""
    caption = record.caption or ""
    if record.keywords and rng.random() < 0.25:
        count = int(rng.integers(1, min(3, len(record.keywords)) + 1))
        words = [str(word) for word in rng.choice(record.keywords, count, replace=False)]
        caption = " ".join(words if rng.random() < 0.5 else [caption, *words])
    return with_artist(record._replace(caption=caption)) if rng.random() < 0.5 else caption


def varied_captions(source: Source, keys: list[tuple[int, int]]) -> list[str]:
    """Return captions for training for (index, seed) keys: a pure function of them."""
    return [
        vary_caption(source.record(index), np.random.default_rng((seed, 1))) for index, seed in keys
    ]
