"""Parquet files, or any dataset that the `datasets` library loads by name."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from dalle_base.common.errors import UserError
from dalle_base.data.config import PathConfig
from dalle_base.data.forms import wordings
from dalle_base.data.sources.base import Record, Source, open_paths


@dataclass
class DatasetsConfig(PathConfig):
    """Parquet files (a glob works) or a dataset's name, by the `datasets` library."""

    split: str = "train"
    """Split to read, of a dataset by name."""
    image_column: str = "image"
    """Column with the image."""
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


class DatasetsSource:
    """Random access to a dataset's rows. Raises `UserError` where it cannot be loaded."""

    def __init__(self, config: DatasetsConfig, path: str) -> None:
        import datasets  # takes a second to import

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
        wanted += [config.mirrorable_column, config.name_column]
        for column in [*wanted, config.colour_column, config.ground_column]:
            if column and column not in rows.column_names:
                raise UserError(
                    f"dataset {path!r} has no column {column!r}; it has "
                    f"{', '.join(rows.column_names)}"
                )
        # Decoding is left to `open_image`, so that one bad row does not end the training.
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
            bool(row[config.mirrorable_column]) if config.mirrorable_column else False,
            self._wordings(row) if config.caption_forms else (),
        )

    def _wordings(self, row: Mapping[str, Any]) -> tuple[str, ...]:
        config = self.config
        columns = config.name_column or config.caption_column, config.colour_column
        name, colour, ground = (
            (row.get(column) or "") if column else "" for column in (*columns, config.ground_column)
        )
        return wordings(name, colour, ground)

    def has_caption(self, index: int) -> bool:
        return bool(self.captions and (self.captions[index] or "").strip())
