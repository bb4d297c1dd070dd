"""Build the icon corpus: `python -m corpora.icons --out data/icons`."""

import argparse
import sys
from pathlib import Path

from dalle_base.common.errors import command

EMOJI = Path("data/emoji")


@command
def main() -> None:
    """Read the command line, build, and print the counts."""
    parser = argparse.ArgumentParser(prog="python -m corpora.icons", description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("data/icons"), help="the corpus's folder")
    parser.add_argument(
        "--packages",
        type=Path,
        help="folder of npm tarballs, fetched if missing (default: `packages` under --out)",
    )
    parser.add_argument(
        "--emoji",
        type=Path,
        help="folder of the emoji corpus, to hold out the same concepts and to leave out its "
        f"art (default: {EMOJI}, if it is there)",
    )
    arguments = parser.parse_args()
    from corpora.icons.build import build
    from corpora.icons.card import table

    emoji = arguments.emoji or (EMOJI if EMOJI.is_dir() else None)
    print(table(build(arguments.out, arguments.packages, emoji)))


if __name__ == "__main__":
    sys.exit(main())
