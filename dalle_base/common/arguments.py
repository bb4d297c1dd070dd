"""Arguments that several scripts have. Needs no torch, so that mistakes are answered at once."""

import argparse
import re

DEVICES = ("auto", "cpu", "cuda", "mps")


def add_device(parser: argparse._ActionsContainer) -> None:
    """Add `--device`."""
    parser.add_argument(
        "--device",
        type=_device,
        default="auto",
        help="auto (a GPU where there is one), cpu, cuda or mps (default: %(default)s)",
    )


def _device(name: str) -> str:
    if not re.fullmatch(rf"({'|'.join(DEVICES)})(:\d+)?", name):
        raise argparse.ArgumentTypeError(f"{name!r} is none of {', '.join(DEVICES)}")
    return name
