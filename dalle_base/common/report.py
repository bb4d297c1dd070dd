"""What scripts print and write: lines beside a progress bar, tables, JSON."""

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from dalle_base.common.files import prepare_file, prepare_folder, write_text


def say(line: str, error: bool = False) -> None:
    """Print a line, to standard error if so wanted, without tearing a progress bar."""
    from tqdm import tqdm

    tqdm.write(line, file=sys.stderr if error else None)


def shown(text: Path | str) -> str:
    """A path or caption for one line on the screen: what cannot be printed becomes `?`."""
    return "".join(c if c.isprintable() else "?" for c in str(text))


def table(rows: Sequence[Sequence[str]]) -> str:
    """Rows of texts as aligned columns; numbers are to be formatted to equal widths before."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ("  ".join(f"{t:<{w}}" for t, w in zip(row, widths, strict=True)) for row in rows)
    return "\n".join(line.rstrip() for line in lines)


def prepare_output(json_file: Path | None, folder: Path | None) -> None:
    """Make the places to write to now, so that nothing is computed in vain. Raises `UserError`."""
    if folder:
        prepare_folder(folder, "name another with --out")
    if json_file:
        prepare_file(json_file, "name another with --json")


def write_json(path: Path, record: Any) -> None:
    """Write a record as JSON, whole or not at all. Raises `UserError`."""
    write_text(path, json.dumps(record, indent=1))
