"""Images under a folder, with captions beside them."""

from dataclasses import dataclass
from pathlib import Path

from dalle_base.common.errors import UserError
from dalle_base.common.report import say, shown
from dalle_base.data.caption_files import read_beside, read_tables, texts_beside
from dalle_base.data.caption_tables import first_table
from dalle_base.data.config import PathConfig
from dalle_base.data.image_files import count_others, no_images, walk
from dalle_base.data.passed_over import PassedOver
from dalle_base.data.sources.at_path import other_source
from dalle_base.data.sources.base import Record, Source, open_paths

UNREADABLE = "captions that cannot be read"


@dataclass
class FolderConfig(PathConfig):
    """Images under a folder: captions in metadata.csv, .jsonl, ..., or in a .txt beside each."""

    def open(self) -> tuple[Source, Source]:
        """Return the training and the held-out source."""
        return open_paths(FolderSource, self)


class FolderSource:
    """Images under a folder and the folders below it, in the order of their paths.

    Captions are in a metadata.csv, .tsv, .jsonl or .json (or captions.csv, ...) of any of these
    folders, with the columns file_name and caption as in the `datasets` library's ImageFolder, or
    usual names for them; or in a .txt or .caption beside an image, a line for each. An image may
    have several. Files that are no data (`walk`), and captions of no image, are in
    `passed_over`, of which one line tells.

    Raises:
        UserError: no folder, no images in it, or captions that cannot be read.
    """

    def __init__(self, path: str) -> None:
        self.folder = Path(path)
        if not self.folder.is_dir():
            what = "is no folder" if self.folder.exists() else "does not exist"
            hint = other_source(path, "folder") or "set data.path"
            raise UserError(f"data folder {shown(path)!r} {what}; {hint}")
        self.passed_over = PassedOver()
        self.files: list[Path] = []
        self._beside: dict[Path, Path] = {}
        tables: list[Path] = []
        for listing in walk(self.folder, self.passed_over):
            here = listing.folder
            self.files += [here / name for name in listing.images]
            texts = texts_beside(listing.images, listing.others)
            self._beside |= {here / image: here / text for image, text in texts.items()}
            read = set(texts.values())
            if table := first_table([name for name in listing.others if name not in read]):
                tables.append(here / table)
                read.add(table)
            count_others(self.passed_over, listing, self.folder, read)
        if not self.files:
            hint = other_source(path, "folder")
            raise UserError(f"{no_images(self.folder, self.passed_over)}{hint and '; '}{hint}")
        self.files.sort()
        self.captions = read_tables(sorted(tables), self.folder, self.files, self.passed_over)
        """Of images, those in tables; once they have been read, also those beside them."""
        if self.passed_over:
            say(f"passed over under {shown(path)}: {self.passed_over}")

    def __len__(self) -> int:
        return len(self.files)

    def record(self, index: int) -> Record:
        path = self.files[index]
        captions = self._captions_of(path)
        return Record(
            str(path), path, captions[0] if captions else None, other_captions=captions[1:]
        )

    def has_caption(self, index: int) -> bool:
        return bool(self._captions_of(self.files[index]))

    def _captions_of(self, path: Path) -> tuple[str, ...]:
        captions = self.captions.get(path, ())
        if captions or path not in self._beside:
            return captions
        text = self._beside.pop(path)
        try:
            captions = read_beside(text)
        except UserError as error:
            if UNREADABLE not in self.passed_over.counts:  # the first one is enough of a hint
                say(f"an image's caption is left out: {error}", error=True)
            self.passed_over.add(UNREADABLE, str(text))
        self.captions[path] = captions
        return captions
