"""Which image a name in a table means: names come from other systems and other folders."""

import os
import unicodedata
from collections import defaultdict
from collections.abc import Iterable, Iterator
from itertools import takewhile
from pathlib import Path
from typing import NamedTuple
from urllib.parse import unquote

from dalle_base.data.image_files import SUFFIXES

MOST_IMAGES = 64
"""With more images of one name, a name fits several."""
EXACT = 2**31
"""The agreement of a name that is the image's, relative to the table."""
NO_FILE = "names match no file"
SEVERAL = "names fit several files"
NOT_DATA = "names are of files that are passed over"


class Match(NamedTuple):
    """What a name means."""

    image: Path | None
    agreement: int = 0
    """Of how many folders and files the name agrees with the image's path, from the end."""
    reason: str = ""
    """Why there is no image, if so."""


class ImageNames:
    """Finds images by the names that tables have for them.

    A name is first a path relative to the table's folder, also with backslashes, `%20`, or in
    another Unicode form or case. Else an image fits whose path ends with the whole name, or with
    whose whole path under `root` or the table's folder the name ends (it has another root); where
    the name has no suffix of images, that of the image does not count. Of several images the one
    with most in common is meant, unless two have as much.
    """

    def __init__(self, root: Path, images: Iterable[Path]) -> None:
        self.root = root
        self.images = {str(image): image for image in images}  # texts are compared faster
        self._by_ending: dict[bool, dict[str, list[Path]]] = {}

    def find(self, folder: Path, name: str) -> Match:
        """Return what a name in a table in `folder` means."""
        exists = False
        for spelling in _spellings(name):
            path = os.path.normpath(f"{folder}/{spelling.lstrip('/')}")
            if image := self.images.get(path) or self.images.get(spelling):
                return Match(image, EXACT)
            target = _file_at(Path(path))
            if target is not None:
                exists = True
                with_links = self.root / os.path.relpath(target, self.root.resolve())
                if image := self.images.get(str(with_links)):
                    return Match(image, EXACT)
        if exists:
            return Match(None, reason=NOT_DATA)
        for spelling in _spellings(name):
            if images := self._fitting(folder, spelling):
                if len(images) > 1:
                    return Match(None, reason=SEVERAL)
                return Match(images[0], _agreement(images[0], spelling))
        return Match(None, reason=NO_FILE)

    def _fitting(self, folder: Path, name: str) -> list[Path]:
        """Return the images that a name fits loosely, of those that agree most with it."""
        parts = [part for part in _parts(name) if part not in ("", ".", "..")]
        if not parts:
            return []
        bare = Path(parts[-1]).suffix not in SUFFIXES
        index = self._endings(bare)
        count, images = 0, []
        for count in range(len(parts), 0, -1):
            images = index.get("/".join(parts[-count:]), [])
            if len(images) > MOST_IMAGES:
                return images
            if images:
                break
        fitting = []
        for image in images:
            roots = [len(image.relative_to(self.root).parts)]
            if image.is_relative_to(folder):
                roots.append(len(image.relative_to(folder).parts))
            if count >= min(len(parts), *roots):
                fitting.append(image)
        return fitting

    def _endings(self, bare: bool) -> dict[str, list[Path]]:
        """Return the images by each ending of their paths under the root, `bare` of suffixes."""
        if bare not in self._by_ending:
            index = defaultdict(list)
            for image in self.images.values():
                parts = _parts(image.relative_to(self.root).as_posix())
                if bare:
                    parts[-1] = _stem(parts[-1])
                for first in range(len(parts)):
                    index["/".join(parts[first:])].append(image)
            self._by_ending[bare] = dict(index)
        return self._by_ending[bare]


def _agreement(image: Path, name: str) -> int:
    pairs = zip(reversed(_parts(str(image.absolute()))), reversed(_parts(name)), strict=False)
    next(pairs)  # the file, which fits with or without its suffix
    return 1 + sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], pairs))


def _spellings(name: str) -> Iterator[str]:
    """Yield a name as it may have been meant, as it is first."""
    name = name.strip()
    yield name
    seen = {name}
    for base in (name, name.removeprefix("file://")):
        for spelling in (base.replace("\\", "/"), unquote(base.replace("\\", "/"))):
            if spelling not in seen:
                seen.add(spelling)
                yield spelling


def _file_at(path: Path) -> Path | None:
    try:
        return path.resolve() if path.is_file() else None
    except (OSError, ValueError):  # no possible name
        return None


def _compared(text: str) -> str:
    return unicodedata.normalize("NFC", text).casefold()


def _parts(name: str) -> list[str]:
    return _compared(name).strip("/").split("/")


def _stem(name: str) -> str:
    return name.rpartition(".")[0] or name
