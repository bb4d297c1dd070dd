"""Draws the curves of training runs from their metrics.jsonl, several runs in one drawing."""

import argparse
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from dalle_base.common.errors import UserError, command
from dalle_base.common.files import prepare_file, write_file
from dalle_base.common.report import shown

if TYPE_CHECKING:
    from matplotlib.axes import Axes

LOG, DRAWING = "metrics.jsonl", "curves.png"
FIRST = ("loss", "lr", "gradient_norm")
"""Figures that come first, in this order, where runs have them; the others follow as logged."""
MOST = 16
"""Figures in a drawing where none are named."""
COLUMNS = 4

Curve = list[tuple[int, float]]
"""(update, value), by update."""


def read_curves(folder: Path) -> dict[str, Curve]:
    """Return the curve of each figure that a run has logged, by name.

    A line that a crash cut short, and values that are not finite, are left out. Raises `UserError`
    where there is no log.
    """
    path = folder if folder.is_file() else folder / LOG
    try:
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        raise UserError(
            f"{shown(folder)} has no {LOG}: name the folder of a training run"
        ) from None
    curves: dict[str, Curve] = {}
    for line in lines:
        try:
            figures = json.loads(line)
            step = int(figures.pop("step"))
        except (ValueError, TypeError, KeyError, AttributeError):
            continue
        for name, value in figures.items():
            number = isinstance(value, int | float) and not isinstance(value, bool)
            if number and math.isfinite(value):
                curves.setdefault(name, []).append((step, float(value)))
    if not curves:
        raise UserError(f"{shown(path)} has no figures yet")
    return {name: sorted(curve) for name, curve in curves.items()}


def choose_figures(runs: Sequence[dict[str, Curve]], wanted: Sequence[str] = ()) -> list[str]:
    """Return the figures to draw: those wanted, or the first ones of what runs have.

    Raises `UserError` for one that no run has.
    """
    known = list(dict.fromkeys(name for curves in runs for name in curves))
    for name in wanted:
        if name not in known:
            raise UserError(f"--figures: no run has {name!r}; there are {', '.join(known)}")
    if wanted:
        return list(wanted)
    first = [name for name in FIRST if name in known]
    return [*first, *(name for name in known if name not in first)][:MOST]


def draw_curves(runs: dict[str, dict[str, Curve]], figures: Sequence[str], path: Path) -> None:
    """Write a PNG with a panel for each figure and a line for each run that has it."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    columns = min(COLUMNS, len(figures))
    rows = math.ceil(len(figures) / columns)
    sheet = Figure(figsize=(3.2 * columns, 2.3 * rows + 0.4), layout="constrained")
    FigureCanvasAgg(sheet)
    for number, name in enumerate(figures):
        _panel(sheet.add_subplot(rows, columns, number + 1), name, runs)
    handles = [line for axes in sheet.axes for line in axes.get_lines()]
    labels = {str(line.get_label()): line for line in handles}
    sheet.legend(
        [labels[name] for name in runs if name in labels],
        [name for name in runs if name in labels],
        loc="outside lower center",
        ncols=columns,
        fontsize="small",
    )
    write_file(path, lambda temporary: sheet.savefig(temporary, format="png", dpi=100))


def _panel(axes: "Axes", name: str, runs: dict[str, dict[str, Curve]]) -> None:
    for number, (run, curves) in enumerate(runs.items()):
        if name not in curves:
            continue
        steps, values = zip(*curves[name], strict=True)
        marker = "." if len(steps) < 3 else ""  # a line of one point cannot be seen
        axes.plot(steps, values, f"C{number}", label=run, linewidth=1, marker=marker)
    axes.set_title(name, fontsize="small", parse_math=False)
    axes.tick_params(labelsize="x-small")
    axes.grid(alpha=0.3)


def labels_of(folders: Sequence[Path]) -> list[str]:
    """Return a name for each run: that of its folder, or its path where two are called the same."""
    names = [folder.resolve().name for folder in folders]
    return [
        shown(name if names.count(name) == 1 else folder)
        for name, folder in zip(names, folders, strict=True)
    ]


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m dalle_base.training.curves", description=__doc__
    )
    parser.add_argument(
        "runs", nargs="+", type=Path, metavar="RUN", help="folder of a training run"
    )
    parser.add_argument(
        "--out", type=Path, help=f"file to write (default: {DRAWING} in the first run's folder)"
    )
    parser.add_argument(
        "--figures",
        nargs="+",
        default=[],
        metavar="NAME",
        help=f"which to draw (default: the first {MOST}; the log's names)",
    )
    return parser.parse_args()


@command
def main() -> None:
    arguments = parse()
    folders = list(dict.fromkeys(arguments.runs))
    curves = [read_curves(folder) for folder in folders]
    runs = dict(zip(labels_of(folders), curves, strict=True))
    figures = choose_figures(curves, arguments.figures)
    beside = folders[0].parent if folders[0].is_file() else folders[0]
    path = arguments.out or beside / DRAWING
    prepare_file(path, "name another with --out")
    draw_curves(runs, figures, path)
    print(f"wrote {shown(path)}: {', '.join(figures)}")


if __name__ == "__main__":
    raise SystemExit(main())
