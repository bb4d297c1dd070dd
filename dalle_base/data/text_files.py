"""Text files as other systems write them: their encoding, their lines."""

import codecs
import re
from pathlib import Path
from typing import NamedTuple

from dalle_base.common.errors import UserError
from dalle_base.common.report import shown

MOST_BYTES = 2**31
"""Bytes of a text file."""
BYTE_ORDER_MARKS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),  # before UTF-16, whose mark it starts with
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
WESTERN = "cp1252"
_CONTROLS = re.compile("[\0-\x08\x0e-\x1a\x7f]")
_FOREIGN = re.compile("[^\0-\x7f“”‘’–—…€«»]{3,}")
_WESTERN = re.compile("[a-zA-Z][À-ÿ]|[À-ÿ][a-zA-Z]")


class Decoded(NamedTuple):
    """A file's text."""

    text: str
    encoding: str
    """Python's name of it. `WESTERN` is a guess, the others are certain or nearly so."""


def read_text(path: Path) -> Decoded:
    """Return a text file's content: UTF-8, UTF-16 or UTF-32, or else Windows-1252 (Latin-1).

    Raises:
        UserError: no regular file, or one in no encoding that can be told for sure.
    """
    try:
        if not path.is_file():
            raise UserError(f"{shown(path)} is no regular file")
        if path.stat().st_size > MOST_BYTES:
            raise UserError(f"{shown(path)} has more than 2 GB: split it")
        content = path.read_bytes()
    except OSError as error:
        raise UserError(f"cannot read {shown(path)}: {error.strerror}") from None
    found = decode(content)
    if found is None:
        raise UserError(f"{shown(path)} is no text in UTF-8, UTF-16 or Windows-1252: save as UTF-8")
    return found


def decode(content: bytes) -> Decoded | None:
    """Return the text that bytes encode (see `read_text`), None where that is not clear."""
    for mark, encoding in BYTE_ORDER_MARKS:
        if content.startswith(mark):
            return _decoded(content, encoding)
    if content.count(0) * 8 > len(content):  # of Latin letters, every second byte is zero
        odd = content[1::2].count(0) > content[::2].count(0)
        return _decoded(content, "utf-16-le" if odd else "utf-16-be")
    found = _decoded(content, "utf-8")
    if found is None and (western := _decoded(content, WESTERN)):
        return western if _is_western(western.text) else None
    return found


def lines_of(text: str) -> list[str]:
    """Return a text's lines. Only line feeds and carriage returns end one, U+2028 does not."""
    return text.replace("\r\n", "\n").replace("\r", "\n").split("\n")


def _decoded(content: bytes, encoding: str) -> Decoded | None:
    try:
        text = content.decode(encoding)
    except UnicodeDecodeError:
        return None
    controls = len(_CONTROLS.findall(text))
    few = controls == 0 if encoding == WESTERN else controls * 20 <= len(text)
    return Decoded(text, encoding) if few else None


def _is_western(text: str) -> bool:
    """Whether a text read as Windows-1252 is one. Cyrillic, Greek or Chinese looks like ÏÐÈÂÅÒ."""
    return len(_FOREIGN.findall(text)) * 4 <= len(_WESTERN.findall(text))
