"""The captions of a command line: --text, given once or more, and --text-file. Needs no torch."""

import argparse
from pathlib import Path
from typing import Any

from dalle_base.common.errors import UserError

MOST_BYTES = 64 * 2**20


def add_captions(parser: argparse.ArgumentParser) -> None:
    """Add the flags that `take_captions` reads."""
    parser.add_argument(
        "--text",
        action="append",
        metavar="CAPTION",
        help="the caption; given several times, each has a folder of its own",
    )
    parser.add_argument(
        "--text-file",
        type=Path,
        metavar="FILE",
        help="captions, one a line; run again, it passes over those that are finished",
    )


def take_captions(options: dict[str, Any]) -> list[str]:
    """Remove the flags of `add_captions` from options; return the captions, each once.

    Raises `UserError` where there is none, for an empty one, and for a file that cannot be read.
    """
    captions, file = options.pop("text") or [], options.pop("text_file")
    if file is not None:
        captions = [*captions, *read_captions(file)]
    if not captions:
        raise UserError("there is no caption: write --text CAPTION, or --text-file FILE")
    for caption in captions:
        if not caption.strip():
            raise UserError("--text is empty: write what the image should show")
    return list(dict.fromkeys(captions))


def read_captions(file: Path) -> list[str]:
    """Return the lines of a file that have text. Raises `UserError` where it cannot be read."""
    try:
        if file.stat().st_size > MOST_BYTES:
            raise UserError(f"--text-file {file} has over 64 MB: split it")
        content = file.read_bytes()
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"--text-file {file} cannot be read: {reason}") from None
    lines = []
    for number, line in enumerate(content.removeprefix(b"\xef\xbb\xbf").splitlines(), 1):
        try:
            lines.append(line.decode("utf-8").strip())
        except UnicodeDecodeError:
            raise UserError(
                f"--text-file {file}: line {number} is not UTF-8; save the file in UTF-8"
            ) from None
    if not any(lines):
        raise UserError(f"--text-file {file} has no line with text")
    return [line for line in lines if line]
