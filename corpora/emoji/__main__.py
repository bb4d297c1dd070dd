"""Build the emoji corpus: `python -m corpora.emoji --out data/emoji`."""

import argparse
import sys
from pathlib import Path

from corpora.emoji.build import build
from corpora.emoji.card import table
from dalle_base.common.errors import command


@command
def main() -> None:
    """Read the command line, build, and print the counts."""
    parser = argparse.ArgumentParser(prog="python -m corpora.emoji", description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("data/emoji"), help="the corpus's folder")
    parser.add_argument(
        "--packages",
        type=Path,
        help="folder of npm tarballs, fetched if missing (default: `packages` under --out)",
    )
    parser.add_argument(
        "--allow-changed-counts",
        action="store_true",
        help="warn, and do not stop, if a package gives another number of images than expected",
    )
    arguments = parser.parse_args()
    print(table(build(arguments.out, arguments.packages, arguments.allow_changed_counts)))


if __name__ == "__main__":
    sys.exit(main())
