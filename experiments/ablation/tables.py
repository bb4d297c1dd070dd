"""An ablation's table as Markdown and CSV."""

import csv
import io
from collections.abc import Sequence

from dalle_evaluation.intervals import Interval
from experiments.ablation.cells import DONE, Cell
from experiments.ablation.config import Ablation
from experiments.ablation.results import Compared, Row


def number(value: float, signed: bool = False) -> str:
    """Return a figure with four digits that count."""
    text = f"{value:+.4g}" if signed else f"{value:.4g}"
    return text.replace("e+0", "e").replace("e-0", "e-")


def interval(figure: Interval, signed: bool = False) -> str:
    """Return a figure with its interval."""
    low, high = number(figure.low, signed), number(figure.high, signed)
    return f"{number(figure.value, signed)} [{low}, {high}]"


def header(ablation: Ablation, base: str) -> list[str]:
    """Return the table's column names."""
    columns = ["variant", "seeds", "updates", "core minutes"]
    for name, better in ablation.figures.items():
        columns += [f"{name} ({better} is better)", f"difference from {base}"]
    return columns


def cells_of_row(ablation: Ablation, row: Row) -> list[str]:
    """Return a row's texts, one for each column."""
    texts = [
        row.variant.name,
        str(row.finished),
        f"{row.updates:,}" if row.updates else "",
        f"{row.seconds / 60:.1f}" if row.finished else "",
    ]
    for name in ablation.figures:
        found = row.compared.get(name)
        texts += ["failed" if row.failures else "–", ""] if found is None else _figure(found)
    return texts


def _figure(found: Compared) -> list[str]:
    if found.difference is None:
        return [interval(found.mean), ""]
    return [interval(found.mean), f"{interval(found.difference, signed=True)}, {found.verdict}"]


def markdown(ablation: Ablation, rows: Sequence[Row]) -> str:
    """Return the table in Markdown; failures follow it."""
    columns = header(ablation, rows[0].variant.name)
    lines = [columns, ["---"] * len(columns), *(cells_of_row(ablation, row) for row in rows)]
    text = "\n".join(f"| {' | '.join(_plain(cell) for cell in line)} |" for line in lines)
    failed = [f"- failed: {row.variant.name}, {reason}" for row in rows for reason in row.failures]
    return "\n".join([text, *(["", *failed] if failed else [])]) + "\n"


def _plain(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")


def csv_table(ablation: Ablation, rows: Sequence[Row]) -> str:
    """Return the table as CSV, a line for each variant and figure."""
    lines: list[list[object]] = [
        [
            *("variant", "figure", "better", "seeds", "updates", "mean", "low", "high"),
            *("difference", "difference_low", "difference_high", "verdict"),
        ]
    ]
    for row in rows:
        for name, found in row.compared.items():
            start = [row.variant.name, name, ablation.figures[name], row.finished, row.updates]
            lines.append([*start, *found.mean, *(found.difference or ("", "", "")), found.verdict])
    return _csv(lines)


def csv_cells(cells: Sequence[Cell]) -> str:
    """Return all figures of all cells as CSV, a line for each cell."""
    results = [(cell, cell.result()) for cell in cells]
    names = sorted({name for _, result in results for name in result.get("figures", {})})
    lines: list[list[object]] = [
        ["variant", "seed", "status", "reason", "updates", "seconds", *names]
    ]
    for cell, result in results:
        figures = result.get("figures", {}) if result["status"] == DONE else {}
        start = [cell.variant.name, cell.seed, result["status"], result.get("reason", "")]
        start += [cell.updates, result.get("seconds", "")]
        lines.append([*start, *(figures.get(name, "") for name in names)])
    return _csv(lines)


def _csv(lines: Sequence[Sequence[object]]) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(lines)
    return text.getvalue()
