"""Names and captions in what a table or JSON has in their place, whatever its type."""

import ast
import json
import math
import re
import warnings
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

NAME_KEYS = (
    *("filename", "file", "filepath", "image", "imagefile", "imagename", "imagepath"),
    *("imagefilename", "img", "imgname", "imgpath", "path", "imageid", "id", "key", "name"),
)
CAPTION_KEYS = ("caption", "text", "prompt", "description", "sentence", "comment", "alttext", "raw")
"""Without upper case, white space and underscores. Plurals and numbers may follow a caption's."""
_CONTROLS = re.compile("[\0-\x08\x0e-\x1f\x7f]")
MOST_LETTERS = 100_000
"""Letters of a cell that is parsed as a list."""


def plain(key: Any) -> str:
    """Return a column's name as it is compared: `File_Name` and `file name` are one."""
    return re.sub(r"[\W_]+", "", str(key).casefold())


@lru_cache(1024)
def name_key(keys: tuple[str, ...]) -> str | None:
    """Return which column has the images' names, if any."""
    by_plain = {plain(key): key for key in reversed(keys)}
    return next((by_plain[name] for name in NAME_KEYS if name in by_plain), None)


@lru_cache(1024)
def caption_keys(keys: tuple[str, ...]) -> list[list[str]]:
    """Return the columns with captions: groups (`caption_1`, `caption_2`), the best first."""
    groups = []
    for stem in CAPTION_KEYS:
        pattern = re.compile(f"(image)?{stem}s?\\d*")
        groups.append([key for key in keys if pattern.fullmatch(plain(key))])
    return [group for group in groups if group]


def name_in(value: Any) -> str | None:
    """Return the file's name in a value: a text, a number, or a mapping that has a path."""
    if isinstance(value, Mapping):
        key = name_key(tuple(map(str, value)))
        value = value.get("path") or (value.get(key) if key else None)
    if isinstance(value, bool) or not isinstance(value, str | int):
        return None
    return str(value).strip() or None


def captions_in(value: Any) -> list[str]:
    """Return the captions in a value of any type, each once, none empty.

    A text is one; a number is its digits; a list has several, also one that is written as text
    (`["a cat", "a small cat"]`); a mapping has what stands under a caption's name. Nothing else is
    a caption.
    """
    found: dict[str, None] = {}
    waiting = [value]
    while waiting:
        each = waiting.pop()
        if isinstance(each, str):
            parts = _list_in(each)
            if parts is not None:
                waiting += reversed(parts)
            elif text := mended(each):
                found[text] = None
        elif isinstance(each, bool):
            continue
        elif isinstance(each, int | float):
            waiting.append(_digits(each))
        elif isinstance(each, list | tuple):
            waiting += reversed(each)
        elif isinstance(each, Mapping):
            waiting += reversed(captions_of_row(each))
    return list(found)


def captions_of_row(row: Mapping[Any, Any]) -> list[Any]:
    """Return a row's values under a caption's name: of the first such name that has any."""
    keys = {str(key): value for key, value in row.items()}
    for group in caption_keys(tuple(keys)):
        values = [keys[key] for key in group if keys[key] not in (None, "", [])]
        if any(not isinstance(value, str) or value.strip() for value in values):
            return values
    return []


def mended(text: str) -> str:
    """Return a caption without control characters, halves of characters, and space around it."""
    whole = text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return _CONTROLS.sub(" ", whole).strip()


def _digits(number: float) -> str:
    if isinstance(number, float) and number.is_integer() and abs(number) < 1e15:
        return str(int(number))
    try:
        return str(number) if math.isfinite(number) else ""  # NaN: a table had nothing there
    except (ValueError, OverflowError):  # an integer of thousands of digits
        return ""


def _list_in(text: str) -> list[str] | None:
    """Return the texts of a list that is written as text, by JSON or Python."""
    text = text.strip()
    if not (text.startswith("[") and text.endswith("]")) or len(text) > MOST_LETTERS:
        return None
    for parse in (json.loads, ast.literal_eval):
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of backslashes
                value = parse(text)
        except (ValueError, SyntaxError, RecursionError, MemoryError):
            continue
        if isinstance(value, list) and all(isinstance(each, str) for each in value):
            return value
    return None
