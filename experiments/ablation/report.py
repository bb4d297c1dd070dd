"""An ablation's folder of results: tables, drawings and one page of HTML that has all in it."""

import base64
import html
import platform
from collections.abc import Sequence
from pathlib import Path

import torch

from dalle_base.common.checkout import commit
from dalle_base.common.files import write_text
from experiments.ablation.cells import DONE, Cell
from experiments.ablation.config import Ablation
from experiments.ablation.drawings import draw_curves, draw_samples, draw_sweep
from experiments.ablation.results import RESAMPLES, Row, rows
from experiments.ablation.tables import cells_of_row, csv_cells, csv_table, header, markdown

PAGE = "report.html"
STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; max-width: 75rem; margin: 2rem auto; padding: 0 1rem; }
table { border-collapse: collapse; } th, td { padding: .3rem .7rem; border-bottom: 1px solid #ccc; }
th { text-align: left; } td { font-variant-numeric: tabular-nums; } .wide { overflow-x: auto; }
.better { background: #e2f4e2; } .worse { background: #fae3e0; }
img { max-width: 100%; } pre { overflow-x: auto; background: #f4f4f4; padding: .7rem; }
"""


def write_report(ablation: Ablation, cells: Sequence[Cell], out: Path) -> Path:
    """Write all that the finished cells say into `out`; return the page."""
    found, origin = rows(ablation, cells), where()
    write_text(out / "table.md", markdown(ablation, found))
    write_text(out / "table.csv", csv_table(ablation, found))
    write_text(out / "cells.csv", csv_cells(cells))
    commands = [f"# {origin}", *(line for cell in cells for line in cell.commands)]
    write_text(out / "commands.sh", "\n".join(commands) + "\n")
    drawings = {
        "Over the sweep": draw_sweep(ablation, found, out / "sweep.png"),
        "Training": draw_curves(ablation, cells, out / "curves.png"),
        "Samples": draw_samples(ablation, cells, out / "samples.png"),
    }
    images = [(title, path) for title, path in drawings.items() if path]
    write_text(out / PAGE, _page(ablation, cells, found, images, origin))
    return out / PAGE


def state(cells: Sequence[Cell]) -> str:
    """Return how many cells are finished and how many have failed, in a few words."""
    results = [cell.result()["status"] for cell in cells]
    done, failed = results.count(DONE), results.count("failed")
    return f"{done} of {len(cells)} cells finished" + (f", {failed} failed" if failed else "")


def _page(
    ablation: Ablation,
    cells: Sequence[Cell],
    found: Sequence[Row],
    images: Sequence[tuple[str, Path]],
    origin: str,
) -> str:
    title = html.escape(ablation.question or "An ablation")
    budget = ablation.budget if ablation.script != "evaluate" else None
    spent = f"Each training: {getattr(budget, budget.kind):,g} {budget.kind}. " if budget else ""
    parts = [
        f"<h1>{title}</h1>",
        f"<p>{html.escape(state(cells))}. {html.escape(spent)}Seeds: "
        f"{', '.join(map(str, ablation.seeds))}. In brackets: percentile bootstrap over the seeds, "
        f"{RESAMPLES:,} resamples; differences are taken seed by seed. With few seeds such an "
        "interval is about as wide as the values lie apart, which is less than 95 % sure.</p>",
        f'<div class="wide">{_table(ablation, found)}</div>',
        *(
            f"<p>failed: {html.escape(f'{r.variant.name}, {f}')}</p>"
            for r in found
            for f in r.failures
        ),
    ]
    for name, path in images:
        data = base64.b64encode(path.read_bytes()).decode("ascii")
        parts.append(f'<h2>{name}</h2><img alt="{name}" src="data:image/png;base64,{data}">')
    commands = html.escape("\n".join(line for cell in cells for line in cell.commands))
    parts.append(f"<h2>Commands</h2><p>{html.escape(origin)}</p><pre>{commands}</pre>")
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{title}</title><style>{STYLE}</style></head>\n<body>\n"
        + "\n".join(parts)
        + "\n</body></html>\n"
    )


def _table(ablation: Ablation, found: Sequence[Row]) -> str:
    columns = header(ablation, found[0].variant.name)
    head = "".join(f"<th>{html.escape(column)}</th>" for column in columns)
    lines = [f"<tr>{head}</tr>"]
    for row in found:
        cells = [
            f'<td class="{text.rpartition(", ")[2]}">{html.escape(text)}</td>'
            if text.endswith((", better", ", worse"))
            else f"<td>{html.escape(text)}</td>"
            for text in cells_of_row(ablation, row)
        ]
        lines.append(f"<tr>{''.join(cells)}</tr>")
    return f"<table>{''.join(lines)}</table>"


def where() -> str:
    """Return the commit, the versions and the machine that results come from."""
    return f"Commit {commit()}; torch {torch.__version__}; {platform.platform()}."
