"""An ablation's drawings: curves over updates, figures over a sweep, samples side by side."""

import math
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image, ImageDraw, ImageFont

from dalle_base.common.errors import UserError
from dalle_base.common.files import write_file
from dalle_base.training.curves import Curve, read_curves
from experiments.ablation.cells import SAMPLES, Cell
from experiments.ablation.config import Ablation
from experiments.ablation.results import Row

MOST_SHOWN = 20
"""Variants in a drawing of curves."""
WIDTH, HEIGHT = 4.6, 3.4
"""Inches of one drawing."""


def draw_curves(ablation: Ablation, cells: Sequence[Cell], out: Path) -> Path | None:
    """Draw each figure that training logs over its updates: mean and range over seeds.

    Returns:
        `out`; None where nothing has been logged.
    """
    curves: dict[str, list[Mapping[str, Curve]]] = {}
    for cell in cells:
        try:
            curves.setdefault(cell.variant.name, []).append(read_curves(cell.folder / "run"))
        except UserError:
            continue
    logged = {name for runs in curves.values() for run in runs for name in run}
    names = [name for name in ablation.figures if name in logged]
    if not names:
        return None
    figure = Figure((WIDTH * len(names) + 1.5, HEIGHT), layout="constrained")
    for place, name in enumerate(names, 1):
        axes = figure.add_subplot(1, len(names), place)
        for number, (variant, runs) in enumerate(list(curves.items())[:MOST_SHOWN]):
            _band(axes, [run[name] for run in runs if name in run], variant, number)
        axes.set_title(name, fontsize=10)
        axes.set_xlabel("updates")
        axes.grid(alpha=0.3)
    figure.legend(*axes.get_legend_handles_labels(), loc="outside right upper", fontsize=8)
    return _save(figure, out)


def _band(axes: Axes, runs: Sequence[Curve], label: str, number: int) -> None:
    values: dict[int, list[float]] = {}
    for curve in runs:
        for step, value in curve:
            values.setdefault(step, []).append(value)
    steps = sorted(values)
    style = "-" if number < 10 else "--"
    means = [np.mean(values[step]) for step in steps]
    (line,) = axes.plot(steps, means, style, marker="." if len(steps) < 20 else "", label=label)
    lows, highs = ([pick(values[step]) for step in steps] for pick in (min, max))
    axes.fill_between(steps, lows, highs, color=line.get_color(), alpha=0.15)


def draw_sweep(ablation: Ablation, rows: Sequence[Row], out: Path) -> Path | None:
    """Draw figures over the values of a swept option, or as a field over those of two.

    Returns:
        `out`; None where nothing is swept, or nothing is there yet.
    """
    swept = [row for row in rows if row.variant.values]
    names = [n for n in ablation.figures if any(n in row.compared for row in swept)]
    if not names:
        return None
    figure = Figure((WIDTH * len(names), HEIGHT), layout="constrained")
    for place, name in enumerate(names, 1):
        axes = figure.add_subplot(1, len(names), place)
        axes.set_title(name, fontsize=10)
        draw = _line if len(ablation.sweep) == 1 else _field
        draw(axes, ablation, [row for row in swept if name in row.compared], name)
    return _save(figure, out)


def _line(axes: Axes, ablation: Ablation, rows: Sequence[Row], name: str) -> None:
    """One option: points with their intervals, at their values where these are numbers."""
    ((key, order),) = ablation.sweep.items()
    at = sorted(rows, key=lambda row: order.index(row.variant.values[0]))
    values = [row.variant.values[0] for row in at]
    numeric = all(isinstance(v, int | float) and not isinstance(v, bool) for v in values)
    places = values if numeric else list(range(len(values)))
    means = [row.compared[name].mean for row in at]
    low = [mean.value - mean.low for mean in means]
    high = [mean.high - mean.value for mean in means]
    axes.errorbar(places, [m.value for m in means], [low, high], marker="o", capsize=3)
    if not numeric:
        axes.set_xticks(places, [str(value) for value in values])
    elif min(values) > 0 and max(values) / min(values) >= 8:
        axes.set_xscale("log", base=2)
        axes.set_xticks(values, [f"{value:g}" for value in values])
    axes.set_xlabel(key)
    axes.grid(alpha=0.3)


def _field(axes: Axes, ablation: Ablation, rows: Sequence[Row], name: str) -> None:
    """Two options: a field of numbers."""
    (down, first), (across, second) = ablation.sweep.items()
    field = np.full((len(first), len(second)), math.nan)
    for row in rows:
        place = first.index(row.variant.values[0]), second.index(row.variant.values[1])
        field[place] = row.compared[name].mean.value
    axes.imshow(np.ma.masked_invalid(field), cmap="viridis", aspect="auto")
    for (i, j), value in np.ndenumerate(field):
        if not math.isnan(value):
            axes.text(j, i, f"{value:.4g}", ha="center", va="center", color="white", fontsize=9)
    axes.set_yticks(range(len(first)), [str(value) for value in first])
    axes.set_xticks(range(len(second)), [str(value) for value in second])
    axes.set_ylabel(down)
    axes.set_xlabel(across)


def draw_samples(ablation: Ablation, cells: Sequence[Cell], out: Path) -> Path | None:
    """Lay the samples of all variants under one another: the same captions and seed in a column.

    Returns:
        `out`; None where nothing has been sampled.
    """
    rows = [
        (cell.variant.name, Image.open(cell.folder / SAMPLES).convert("RGB"))
        for cell in cells
        if cell.seed == ablation.seeds[0] and (cell.folder / SAMPLES).exists()
    ]
    if not rows:
        return None
    font, small = ImageFont.load_default(12), ImageFont.load_default(11)
    names = max(int(font.getlength(name)) for name, _ in rows) + 12
    width, height = max(image.width for _, image in rows), rows[0][1].height
    each = width // len(ablation.captions)
    wrapped = [textwrap.wrap(caption, max(6, each // 7)) for caption in ablation.captions]
    top = 4 + 14 * max(map(len, wrapped))
    sheet = Image.new("RGB", (names + width, top + height * len(rows)), "white")
    draw = ImageDraw.Draw(sheet)
    for number, lines in enumerate(wrapped):
        draw.text((names + number * each + 4, 2), "\n".join(lines), "black", small)
    for number, (name, image) in enumerate(rows):
        draw.text((4, top + height * number + height // 2 - 8), name, "black", font)
        sheet.paste(image, (names, top + height * number))
    write_file(out, lambda new: sheet.save(new, format="PNG"), sync=False)
    return out


def _save(figure: Figure, out: Path) -> Path:
    write_file(out, lambda new: figure.savefig(new, dpi=110, format="png"), sync=False)
    return out
