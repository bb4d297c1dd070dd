"""From the shell to an answer: `--help`, a mistake, and the first image of a shipped model.

    python -m benchmarks.startup [--quick] [--model models/emoji]

Runs the scripts as a user does, in a process of its own each time, in turns with `python -c "import
torch"`, the baseline; prints medians. `help_vs_import_torch` is the slowest `--help` of all.
`first_image_vs_import_torch` is sample.py for one candidate, less the time of the sampling itself,
which a process of its own measures around the one call. Run it while the machine is idle.
"""

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path

from benchmarks.measuring import report

ROOT = Path(__file__).parents[1]
SCRIPTS = ("train_dvae", "train_dalle", "train_clip", "sample", "classify", "search", "evaluate")
SAMPLING = """
import time
from dalle.checkpoint import load_text_to_image
model = load_text_to_image({model!r})
start = time.perf_counter()
model.rank(model.generate("a red heart", candidates=1))
print(time.perf_counter() - start)
"""


def run(arguments: list[str]) -> tuple[float, str]:
    """Run a Python process; return its seconds and the last line that it printed."""
    start = time.perf_counter()
    done = subprocess.run([sys.executable, *arguments], cwd=ROOT, capture_output=True, text=True)
    seconds = time.perf_counter() - start
    if done.returncode not in (0, 2):  # 2: a mistake, answered
        raise SystemExit(done.stderr)
    return seconds, (done.stdout.splitlines() or [""])[-1]


def measure(commands: Mapping[str, list[str]], rounds: int) -> dict[str, float]:
    """Return each command's median seconds; they take turns, and the first round goes uncounted.

    "sampling" counts the seconds that it prints.
    """
    times: dict[str, list[float]] = {name: [] for name in commands}
    for number in range(rounds + 1):
        for name, arguments in commands.items():
            seconds, printed = run(arguments)
            if number:
                times[name].append(float(printed) if name == "sampling" else seconds)
    return {name: statistics.median(values) for name, values in times.items()}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="one round")
    parser.add_argument("--model", default="models/emoji", help="model folder")
    options = parser.parse_args()
    load = f"from dalle.checkpoint import load_text_to_image as load; load({options.model!r})"
    with tempfile.TemporaryDirectory() as folder:
        sample = ["sample.py", "--text", "a red heart", "--model", options.model, "--out", folder]
        commands = {
            "import torch": ["-c", "import torch"],
            **{f"{name}.py --help": [f"{name}.py", "--help"] for name in SCRIPTS},
            "a mistake": ["train_dalle.py", "model.dpeth=3"],
            "imports and loading": ["-c", load],
            "sampling": ["-c", SAMPLING.format(model=options.model)],
            "first image": [*sample, "--candidates", "1"],
            "eight candidates": sample,
        }
        table = measure(commands, 1 if options.quick else 5)
    for name, value in table.items():
        print(f"{name:<22}{value:>7.2f} s{value / table['import torch']:>8.2f} x import torch")
    torch_seconds = table["import torch"]
    slowest = max(table[f"{name}.py --help"] for name in SCRIPTS)
    report(
        {
            "help_vs_import_torch": slowest / torch_seconds,
            "mistake_vs_import_torch": table["a mistake"] / torch_seconds,
            "loading_vs_import_torch": table["imports and loading"] / torch_seconds,
            "first_image_vs_import_torch": (table["first image"] - table["sampling"])
            / torch_seconds,
        },
        table=table,
    )


if __name__ == "__main__":
    main()
