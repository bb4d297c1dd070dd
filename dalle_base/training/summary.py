"""What a run's folder says of the run at its end: README.md, and its curves as an image."""

import platform
import shlex
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING

from dalle_base.common.checkout import commit
from dalle_base.common.files import write_text
from dalle_base.training.banner import device_name, precision_name
from dalle_base.training.curves import DRAWING, LOG, choose_figures, draw_curves, read_curves

if TYPE_CHECKING:
    from dalle_base.training.run import Run

README = "README.md"
PACKAGES = ("dalle-from-scratch", "torch", "accelerate", "numpy")
LEAST = 5
"""Points of a curve from which on an image of it says something."""


def write_summary(run: "Run", figure: str) -> None:
    """Write README.md into a run's folder, and curves.png where there is something to be seen.

    Args:
        run: at its end.
        figure: the line on its best figure.
    """
    drawn = draw(run.folder)
    seconds = run.extra.get("seconds", 0.0)
    accelerator, step = run.accelerator, run.trainer.step
    rows = {
        "best": figure,
        "updates": f"{step:,} of {run.batch_size} images",
        "time": f"{seconds / 3600:.2f} hours in all",
        "device": f"{device_name(accelerator.device)}, processes: {accelerator.num_processes}",
        "precision": precision_name(accelerator),
        "commit": commit(),
        "versions": f"Python {platform.python_version()}, " + ", ".join(map(_version, PACKAGES)),
        "config": "checkpoint/config.yaml",
    }
    table = "\n".join(f"| {name} | {value or 'unknown'} |" for name, value in rows.items())
    curves = f"\n![The curves]({DRAWING})\n" if drawn else ""
    text = f"# {run.folder.resolve().name}\n\n```bash\n{command_line()}\n```\n\n"
    text += f"|  |  |\n|---|---|\n{table}\n{curves}\nAll figures by update: `{LOG}`.\n"
    write_text(run.folder / README, text)


def draw(folder: Path) -> bool:
    """Draw the curves of a run if they have enough points; return whether they have."""
    if not (folder / LOG).is_file():
        return False
    curves = read_curves(folder)
    long = {name: curve for name, curve in curves.items() if len(curve) >= LEAST}
    if long:
        draw_curves({folder.resolve().name: long}, choose_figures([long]), folder / DRAWING)
    return bool(long)


def command_line() -> str:
    """Return the command that this process was started by."""
    script, *rest = sys.argv
    return shlex.join(
        [*(script.split() if script.startswith("dalle ") else ["python", script]), *rest]
    )


def _version(package: str) -> str:
    try:
        return f"{package} {version(package)}"
    except PackageNotFoundError:
        return package
