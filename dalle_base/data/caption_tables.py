"""Files that hold many images' captions: tables (.csv, .tsv) and JSON (.json, .jsonl)."""

import csv
import io
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from dalle_base.common.errors import UserError
from dalle_base.common.report import say, shown
from dalle_base.data.caption_values import (
    caption_keys,
    captions_in,
    captions_of_row,
    name_in,
    name_key,
)
from dalle_base.data.image_files import SUFFIXES
from dalle_base.data.text_files import WESTERN, lines_of, read_text

STEMS = ("metadata", "captions")
"""Names of files with captions, in any case, the one that is read first."""
ENDINGS = (".csv", ".tsv", ".jsonl", ".ndjson", ".json", ".txt")
SEPARATORS = (",", ";", "\t", "|")
END = "\x1a end of table"
"""Last line of a table while it is read: inside a caption, if a quotation mark is not closed."""


class Row(NamedTuple):
    """What a file says of an image."""

    name: str | None
    """As the file has it; None where there is none."""
    captions: list[str]


def is_table(name: str) -> bool:
    """Whether a file of this name holds captions of the images in its folder and below."""
    return _order(name) is not None


def first_table(names: list[str]) -> str | None:
    """Return which of a folder's files is read: metadata before captions, .csv before .json."""
    return min(filter(is_table, names), key=lambda name: (_order(name), name), default=None)


def _order(name: str) -> tuple[int, int] | None:
    path = Path(name.lower())
    if path.stem in STEMS and path.suffix in ENDINGS:
        return STEMS.index(path.stem), ENDINGS.index(path.suffix)
    return None


def read_table(path: Path) -> list[Row]:
    """Return a file's rows, in order.

    Raises:
        UserError: no text, a quote that is not closed, no JSON, or no columns of the names needed.
    """
    text, encoding = read_text(path)
    if encoding == WESTERN:
        say(f"{shown(path)} is not in UTF-8: read as Windows-1252")
    if path.suffix.lower() in (".csv", ".tsv", ".txt"):
        return _read_csv(text, path)
    value = _parse_json(text, path)
    if isinstance(value, dict) and path.suffix.lower() != ".json":
        value = [value]  # its only line
    return [_row(each) for each in _checked(_json_rows(value), path)]


def _row(row: Mapping[str, Any]) -> Row:
    key = name_key(tuple(row))
    return Row(name_in(row[key]) if key else None, captions_in(captions_of_row(row)))


def _checked(rows: list[dict[str, Any]], path: Path) -> list[dict[str, Any]]:
    """Return the rows. Raises `UserError` where their keys do not name images and captions."""
    keys = tuple(dict.fromkeys(key for row in rows for key in row))
    if rows and not (name_key(keys) and caption_keys(keys)):
        found = shown(", ".join(keys)) or "nothing"
        found = found if len(found) <= 200 else f"{found[:200]}..."
        raise UserError(
            f"captions in {shown(path)}: each row needs file_name and caption or text; "
            f"found {found}"
        )
    return rows


def _parse_json(text: str, path: Path) -> Any:
    """Return the JSON of a file, a list where each line has its own."""
    text = text.removeprefix("\ufeff")
    if not text.strip():
        return []
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        pass
    values = []
    for number, line in enumerate(lines_of(text), 1):
        if line.strip():
            try:
                values.append(json.loads(line))
            except (ValueError, RecursionError) as error:
                reason = shown(str(error).splitlines()[0])
                where = f"captions in {shown(path)}: line {number}"
                raise UserError(f"{where} is not readable JSON: {reason}") from None
    return values


def _json_rows(value: Any) -> list[dict[str, Any]]:
    """Return the rows in JSON: a list of them, columns, COCO's tables, or captions by name."""
    if isinstance(value, list):
        return [_as_row(each) for each in value]
    if not isinstance(value, dict):
        return [] if value is None else [{}]
    images, annotations = value.get("images"), value.get("annotations")
    if isinstance(images, list) and isinstance(annotations, list):
        return list(_join(images, annotations))
    keys = tuple(value)
    name, captions = name_key(keys), caption_keys(keys)
    if name and captions:
        names, texts = _column(value[name]), _column(value[captions[0][0]])
        if names is None or texts is None:
            return [value]
        return [{name: a, captions[0][0]: b} for a, b in zip(names, texts, strict=False)]
    for each in value.values():
        if isinstance(each, list) and any(isinstance(row, dict) for row in each):
            rows = [row for row in each if isinstance(row, dict)]
            keys = tuple(dict.fromkeys(key for row in rows for key in row))
            if name_key(keys) and caption_keys(keys):
                return rows
    return [{"file_name": name, "caption": each} for name, each in value.items()]


def _as_row(value: Any) -> dict[str, Any]:
    """Return a row: empty where it is neither a mapping nor a list of a name and captions."""
    if isinstance(value, list) and len(value) > 1 and isinstance(value[0], str):
        return {"file_name": value[0], "caption": value[1:]}
    return value if isinstance(value, dict) else {}


def _column(value: Any) -> list[Any] | None:
    if isinstance(value, list):
        return value
    return list(value.values()) if isinstance(value, dict) else None


def _join(images: list[Any], annotations: list[Any]) -> Iterator[dict[str, Any]]:
    """Yield a row for each annotation of an image, by the image's id."""
    names = {str(each.get("id")): each for each in images if isinstance(each, dict)}
    for each in annotations:
        if isinstance(each, dict) and (image := names.get(str(each.get("image_id")))):
            key = name_key(tuple(key for key in image if key != "id"))
            name = image[key] if key else None
            yield {"file_name": name, "caption": captions_of_row(each)}


def _read_csv(text: str, path: Path) -> list[Row]:
    limit = csv.field_size_limit(2**31 - 1)
    try:
        return [_row(row) for row in _csv_rows(text.removeprefix("\ufeff").lstrip("\r\n"), path)]
    except csv.Error as error:
        raise UserError(f"captions in {shown(path)}: not readable: {error}") from None
    finally:
        csv.field_size_limit(limit)


def _csv_rows(text: str, path: Path) -> Iterator[dict[str, str]]:
    first, _, rest = text.partition("\n")
    if first.strip().lower().startswith("sep="):  # Excel's note to itself
        text = rest
    if not text.strip():
        return
    separator, header = _header(text, path)
    lines = _cells(text, separator, path)
    if header:
        next(lines)
    else:  # no names of columns: the file's name, then the caption
        header = ["file_name", "caption"]
    last = len(header) - 1
    free = any(header[last] in group for group in caption_keys(tuple(header)))
    for cells in lines:
        if free and len(cells) > len(header):  # a caption with separators that was not quoted
            cells = [*cells[:last], f"{separator} ".join(cells[last:]).rstrip(f"{separator} ")]
        if any(cell.strip() for cell in cells):
            yield dict(zip(header, cells, strict=False))


def _header(text: str, path: Path) -> tuple[str, list[str]]:
    """Return the separator and the columns' names, none where the first row is an image's.

    Raises:
        UserError: whatever the separator, columns that are needed are not there.
    """
    found = {}
    for separator in SEPARATORS:
        found[separator] = [cell.strip() for cell in next(_cells(text, separator, path))]
        columns = tuple(found[separator])
        if name_key(columns) and caption_keys(columns):
            return separator, found[separator]
    for separator, cells in found.items():
        if len(cells) > 1 and Path(cells[0]).suffix.lower() in SUFFIXES:
            return separator, []
    most = max(found.values(), key=len)
    _checked([dict.fromkeys(most)], path)
    return SEPARATORS[0], most


def _cells(text: str, separator: str, path: Path) -> Iterator[list[str]]:
    """Yield a table's rows. Raises `UserError` where a quote is not closed."""
    file = io.StringIO(f"{text.rstrip()}\n{END}", newline="")
    reader = csv.reader(file, delimiter=separator, skipinitialspace=True)
    start = 1
    for cells in reader:
        if cells == [END]:
            return
        if cells and cells[-1].endswith(END):
            where = f"captions in {shown(path)}: line {start}"
            raise UserError(f"{where} opens a quotation mark that is never closed")
        yield cells
        start = reader.line_num + 1
