"""Build the recoloured emoji: `python -m corpora.recoloured --out data/recoloured`."""

import argparse
import sys
from pathlib import Path

from dalle_base.common.errors import command


@command
def main() -> None:
    """Read the command line, build, and print the counts."""
    parser = argparse.ArgumentParser(prog="python -m corpora.recoloured", description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("data/recoloured"), help="folder to write")
    parser.add_argument(
        "--emoji", type=Path, default=Path("data/emoji"), help="folder of the emoji corpus"
    )
    arguments = parser.parse_args()
    from corpora.recoloured.build import build

    print(build(arguments.out, arguments.emoji))


if __name__ == "__main__":
    sys.exit(main())
