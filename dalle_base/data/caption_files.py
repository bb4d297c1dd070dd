"""Captions of image files: texts beside each, or tables in their folder or one above."""

from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path

from dalle_base.common.errors import UserError
from dalle_base.data.caption_tables import read_table
from dalle_base.data.caption_values import mended
from dalle_base.data.image_files import below
from dalle_base.data.image_names import EXACT, NO_FILE, SEVERAL, ImageNames
from dalle_base.data.passed_over import PassedOver
from dalle_base.data.text_files import lines_of, read_text

ENDINGS = (".txt", ".caption")
"""Suffixes of a text beside an image, `1.txt` or `1.png.txt` for `1.png`, in any case."""


def texts_beside(images: Iterable[str], others: Iterable[str]) -> dict[str, str]:
    """Return which of a folder's other files is the text of an image: names by images' names."""
    by_lower: dict[str, str] = {}
    for name in sorted(others, reverse=True):  # 1.txt, not 1.TXT, where there are both
        if name.lower().endswith(ENDINGS):
            by_lower[name.lower()] = name
    found = {}
    for image in images:
        stem = image.lower().rpartition(".")[0]
        wanted = [base + ending for ending in ENDINGS for base in (stem, image.lower())]
        if by_lower and (name := next((by_lower[w] for w in wanted if w in by_lower), None)):
            found[image] = name
    return found


def read_beside(path: Path) -> tuple[str, ...]:
    """Return an image's captions in a text file: its lines that are not empty, each once.

    Raises:
        UserError: it is no text (see `read_text`).
    """
    return tuple(dict.fromkeys(filter(None, map(mended, lines_of(read_text(path).text)))))


def read_tables(
    tables: Iterable[Path], root: Path, images: Iterable[Path], passed_over: PassedOver
) -> dict[Path, tuple[str, ...]]:
    """Return the captions that tables have of images under `root`: those of all rows, each once.

    Names in a table are relative to its folder; one that is no file's may still be the only one
    that fits (`ImageNames`). The others are counted in `passed_over`.

    Raises:
        UserError: a table cannot be read (see `read_table`).
    """
    claims: dict[Path, list[tuple[int, str, list[str]]]] = defaultdict(list)
    names = ImageNames(root, images)
    for table in tables:
        try:
            rows = read_table(table)
        except UserError:
            if table.suffix.lower() != ".txt":
                raise
            passed_over.add(".txt", below(table, root))  # a text of another kind
            continue
        for row in rows:
            if row.name is None:
                passed_over.add("rows without a file's name", below(table, root))
                continue
            match = names.find(table.parent, row.name)
            if match.image is None:
                passed_over.add(match.reason, row.name)
            else:
                claims[match.image].append((match.agreement, row.name, row.captions))
    found: dict[Path, tuple[str, ...]] = {}
    for image, rows in claims.items():
        best = max(agreement for agreement, _, _ in rows)
        chosen = {name for agreement, name, _ in rows if agreement == best}
        unclear = best < EXACT and len(chosen) > 1  # a/1.png and b/1.png, and there is one 1.png
        captions: dict[str, None] = {}
        for _, name, texts in rows:
            if name not in chosen:
                passed_over.add(NO_FILE, name)
            elif unclear:
                passed_over.add(SEVERAL, name)
            else:
                captions |= dict.fromkeys(texts)
        found[image] = tuple(captions)
    return found
