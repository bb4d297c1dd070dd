"""Tables of images by the `datasets` library: files, `save_to_disk` folders, names on the hub."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from dalle_base.common.errors import UserError
from dalle_base.data.caption_values import captions_in
from dalle_base.data.config import PathConfig
from dalle_base.data.forms import short_names, wordings
from dalle_base.data.sources.base import Record, Source, open_paths
from dalle_base.data.sources.loading import Beside, first_line, load

LIKELY_CAPTIONS = ("text", "captions", "prompt", "description", "title", "label", "caption")
"""Columns that a message suggests where the one that is set is missing."""


@dataclass
class DatasetsConfig(PathConfig):
    """Parquet or Arrow files (a glob or a folder works), a `save_to_disk` folder or a dataset's
    name, by the `datasets` library."""

    split: str = "train"
    """Split to read, where there are several."""
    image_column: str = "image"
    """Column with the image, or with the name of its file beside the table."""
    caption_column: str = "caption"
    """Column with the caption."""
    artist_column: str = ""
    """Column whose value becomes ", VALUE style" behind half of the captions, if any."""
    keywords_column: str = ""
    """Column with a list of words that sometimes stand in for the caption, if any."""
    mirrorable_column: str = ""
    """Column that says whether an image and its caption survive a horizontal flip, if any."""
    caption_forms: bool = False
    """Train half of the time on another wording of the caption ("a red heart icon on white")."""
    name_column: str = ""
    """Column with what the image shows, for caption_forms; where empty, the caption."""
    colour_column: str = ""
    """Column with the colour of what it shows, for caption_forms, if any."""
    ground_column: str = ""
    """Column with the colour that it stands on, for caption_forms, if any."""

    def open(self) -> tuple[Source, Source]:
        """Return the training and the held-out source."""
        return open_paths(partial(DatasetsSource, self), self)


class Columns:
    """Reads a dataset's rows by the columns that a config names."""

    def __init__(self, config: DatasetsConfig, path: str, rows: Any) -> None:
        """Check the columns of `rows`, a `Dataset` or `IterableDataset`. Raises `UserError`."""
        self.config, self.path = config, path
        features = rows.features or {}
        # A stream of a table without a schema shows its columns in its rows alone.
        self.names = list(features or next(iter(rows), {}))
        for option in ("image", "artist", "keywords", "mirrorable", "name", "colour", "ground"):
            self._check(f"{option}_column", rows)
        self.has_captions = config.caption_column in self.names
        if not self.has_captions and config.caption_column != DatasetsConfig.caption_column:
            self._check("caption_column", rows)
        label = features.get(config.caption_column)
        self.labels: list[str] | None = getattr(label, "names", None)
        self.taken: frozenset[str] = frozenset()
        """Names of all things in the dataset, where they are known."""

    def _check(self, option: str, rows: Any) -> None:
        column = getattr(self.config, option)
        if not column or column in self.names:
            return
        guess = self._likely_image(rows) if option == "image_column" else "..."
        raise UserError(
            f"dataset {self.path!r} has no column {column!r}; it has {', '.join(self.names)}: "
            f"set data.{option}={guess}"
        )

    def _likely_image(self, rows: Any) -> str:
        images = [n for n, kind in (rows.features or {}).items() if type(kind).__name__ == "Image"]
        return images[0] if len(images) == 1 else "..."

    def undecoded(self, rows: Any) -> Any:
        """Return the rows with images as bytes or file names. Raises `UserError` for no images."""
        import datasets

        if not rows.features:
            return rows
        # Decoding is left to `open_image`, so that one bad row does not end the training.
        try:
            return rows.cast_column(self.config.image_column, datasets.Image(decode=False))
        except Exception as error:
            raise UserError(
                f"dataset {self.path!r}: column {self.config.image_column!r} holds no images "
                f"({first_line(error)}); set data.image_column to one of {', '.join(self.names)}"
            ) from None

    def how_to_caption(self) -> str:
        """Return what to do where no row has a caption."""
        column = self.config.caption_column
        if self.has_captions:
            return f"column {column!r} of {self.path!r} is empty: set data.caption_column"
        others = [name for name in self.names if name != self.config.image_column]
        guess = next((name for name in others if name in LIKELY_CAPTIONS), "...")
        return (
            f"columns are {', '.join(self.names)}; set data.caption_column={guess}"
            if others
            else f"{self.path!r} has no column but the image: captions need one"
        )

    def captions(self, cell: Any) -> list[str]:
        """Return the captions in a cell: a text, a label or several texts; none where empty."""
        if self.labels is not None and isinstance(cell, int):
            cell = self.labels[cell] if 0 <= cell < len(self.labels) else None
        return captions_in(cell)

    def record(self, row: Mapping[str, Any], name: str, beside: Beside, number: int) -> Record:
        """Return a row as a record. Image files are looked for `beside` the table."""
        config = self.config
        texts = self.captions(row.get(config.caption_column))
        forms = self._wordings(row, texts) if config.caption_forms else ()
        keywords = tuple(row[config.keywords_column] or ()) if config.keywords_column else ()
        return Record(
            name,
            _image(row[config.image_column], beside, number),
            texts[0] if texts else None,
            (row[config.artist_column] or "") if config.artist_column else "",
            keywords,
            bool(row[config.mirrorable_column]) if config.mirrorable_column else False,
            forms,
            tuple(texts[1:]),
            short_names(texts[0] if texts else "", keywords, self.taken),
        )

    def _wordings(self, row: Mapping[str, Any], texts: list[str]) -> tuple[str, ...]:
        config = self.config
        name = row.get(config.name_column) if config.name_column else "".join(texts[:1])
        colour, ground = (
            (row.get(column) or "") if column else ""
            for column in (config.colour_column, config.ground_column)
        )
        return wordings(name or "", colour, ground)


def _image(cell: Any, beside: Beside, row: int) -> Any:
    """What a record has for an image: content, or the file that the cell names."""
    if isinstance(cell, Mapping):
        content, file = cell.get("bytes"), cell.get("path")
        cell = content if content is not None else file
    if isinstance(cell, str):
        return beside.find(cell, row)
    return b"" if cell is None else cell


class DatasetsSource:
    """Random access to a dataset's rows. Raises `UserError` where it cannot be loaded."""

    def __init__(self, config: DatasetsConfig, path: str) -> None:
        self.path = path
        loaded = load(path, config.split)
        self.beside, self.columns = Beside(loaded), Columns(config, path, loaded.rows)
        column = config.caption_column
        self.captions = list(loaded.rows[column]) if self.columns.has_captions else []
        self.columns.taken = frozenset(each for each in self.captions if isinstance(each, str))
        self.rows = self.columns.undecoded(loaded.rows)
        if not len(self.rows):
            raise UserError(f"dataset {path!r} is empty")

    def __len__(self) -> int:
        return len(self.rows)

    def record(self, index: int) -> Record:
        name = f"{self.path} row {index}"
        return self.columns.record(self.rows[index], name, self.beside, index)

    def has_caption(self, index: int) -> bool:
        return bool(self.captions and self.columns.captions(self.captions[index]))

    def how_to_caption(self) -> str:
        """Return what to do where no row has a caption."""
        return self.columns.how_to_caption()
