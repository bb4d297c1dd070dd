"""Images under a folder, with captions beside them."""

import csv
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dalle_base.common.errors import UserError
from dalle_base.data.config import PathConfig
from dalle_base.data.image_files import SUFFIXES
from dalle_base.data.sources.base import Record, Source, open_paths

CAPTION_COLUMNS = ("caption", "text")


@dataclass
class FolderConfig(PathConfig):
    """Images under a folder: captions in metadata.csv or .jsonl, or a .txt beside each."""

    def open(self) -> tuple[Source, Source]:
        """Return the training and the held-out source."""
        return open_paths(FolderSource, self)


class FolderSource:
    """Images under a folder; captions in metadata.csv / metadata.jsonl, or a .txt beside each.

    The metadata files follow the `datasets` library's ImageFolder: a `file_name` column relative
    to the folder, and a `caption` or `text` column.
    """

    def __init__(self, path: str) -> None:
        self.folder = Path(path)
        if not self.folder.is_dir():
            raise UserError(f"data folder {path!r} does not exist; set data.path")
        self.files = sorted(p for p in self.folder.rglob("*") if p.suffix.lower() in SUFFIXES)
        if not self.files:
            kinds = ", ".join(sorted(SUFFIXES))
            raise UserError(f"no images under {self.folder.resolve()} (looked for {kinds})")
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
