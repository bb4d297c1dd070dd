"""From the shell to the first picture of a shipped model: how long, and what the time goes to.

    python -m benchmarks.startup [--quick] [--model models/emoji]

Runs sample.py as a user does, for one candidate and for the default eight, in a process of its own
each time, and prints the median. `imports` and `loading` are parts of it, timed by processes that
stop there; what is left is drawing and writing.
"""

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.measuring import report

ROOT = Path(__file__).parents[1]
TARGET = 5.0
"""Seconds in which there should be a first picture."""


def seconds(arguments: list[str], rounds: int) -> float:
    """Return the median time of a Python process, after one that goes uncounted."""
    times = []
    for _ in range(rounds + 1):
        start = time.perf_counter()
        subprocess.run([sys.executable, *arguments], cwd=ROOT, check=True, capture_output=True)
        times.append(time.perf_counter() - start)
    return statistics.median(times[1:])


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="one round")
    parser.add_argument("--model", default="models/emoji", help="model folder")
    options = parser.parse_args()
    rounds = 1 if options.quick else 5
    load = f"load_text_to_image({options.model!r})"
    with tempfile.TemporaryDirectory() as folder:
        draw = ["sample.py", "--text", "a red heart", "--model", options.model, "--out", folder]
        table = {
            "import torch": seconds(["-c", "import torch"], rounds),
            "all imports": seconds(["-c", "import sample"], rounds),
            "imports and loading": seconds(["-c", f"from sample import *; {load}"], rounds),
            "one picture": seconds([*draw, "--candidates", "1"], rounds),
            "eight pictures": seconds(draw, rounds),
        }
    before = 0.0
    for name, value in table.items():
        print(f"{name:<22}{value:7.2f} s, {value - before:+.2f}")
        before = value
    report({"target_vs_first_picture": TARGET / table["one picture"]}, seconds=table)


if __name__ == "__main__":
    main()
