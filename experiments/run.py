"""Ablations: change one thing, train, compare; the result is a table with intervals.

    python -m experiments.run configs/ablations/patterns.yaml
    python -m experiments.run configs/ablations/patterns.yaml --dry-run

Trains each variant of a config from several seeds at the same budget, measures all alike and writes
a folder: report.html (tables, curves, samples, commands), table.md, table.csv, cells.csv. The same
command goes on where it was interrupted; finished cells are never trained again, failed ones are
tried again. docs/ablations.md describes the config.
"""

import dalle_base.common.interrupts  # noqa: F401  # isort: skip  # first of all

import argparse
import dataclasses
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from dalle_base.common.arguments import Number
from dalle_base.common.bounds import Bounds
from dalle_base.common.checkout import in_checkout
from dalle_base.common.config import from_layers, read_layers
from dalle_base.common.errors import UserError, command
from dalle_base.common.files import prepare_folder
from dalle_base.common.report import say, table
from experiments.ablation.config import EVALUATE, Ablation, dotted, variants

if TYPE_CHECKING:
    from experiments.ablation.cells import Cell

Processes = Annotated[int, Bounds(1, 1024)]
Threads = Annotated[int, Bounds(1, 1024)]
COMPARED = ("variants", "sweep", "against")
SMOKE_UPDATES, SMOKE_SEEDS, SMOKE_CELLS, SMOKE_COUNT = 2, 2, 12, 4


def parse_arguments(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("ablation", type=Path, help="a file of configs/ablations")
    parser.add_argument("--out", type=Path, help="folder of results (default: runs/ablations/NAME)")
    parser.add_argument(
        "--processes", action=Number, kind=Processes, help="cells at a time (default: processors)"
    )
    parser.add_argument(
        "--threads", action=Number, kind=Threads, default=1, help="of each (default: %(default)s)"
    )
    parser.add_argument("--dry-run", action="store_true", help="list the cells and what they cost")
    parser.add_argument("--report", action="store_true", help="only write the results anew")
    parser.add_argument("--smoke", action="store_true", help="all of it in miniature, in a minute")
    return parser.parse_args(argv)


@command
def main() -> None:
    options = parse_arguments()
    path = in_checkout(options.ablation)
    ablation = read_ablation(path)
    name = path.stem
    if options.smoke:
        ablation, name = miniature(ablation), f"{name}-smoke"
    out = options.out or Path("runs/ablations") / name
    if options.smoke and not options.report:
        shutil.rmtree(out / "cells", ignore_errors=True)
    from experiments.ablation.report import state, write_report
    from experiments.ablation.workers import cores, only_one, work_off

    if options.dry_run:
        print(costs(plan_cells(ablation, out, options.threads, dry=True)))
        return
    prepare_folder(out, "name another with --out")
    with only_one(out) as lock:
        cells = plan_cells(ablation, out, options.threads)
        if not options.report:
            for cell in cells:
                cell.folder.mkdir(parents=True, exist_ok=True)
                cell.write_plan()
            say(f"{state(cells)}; results go to {out}")
            try:
                work_off(cells, options.processes or cores(), options.threads, lock)
            finally:
                say(f"wrote {write_report(ablation, cells, out)}: {state(cells)}")
        else:
            say(f"wrote {write_report(ablation, cells, out)}: {state(cells)}")
        print((out / "table.md").read_text("utf-8"), end="")
        for line in unmeasured(ablation, cells):
            say(line)
    if all(cell.result()["status"] == "failed" for cell in cells):
        raise UserError("every cell has failed")


def unmeasured(ablation: Ablation, cells: "Sequence[Cell]") -> list[str]:
    """Return a line on the table's figures that no finished cell has measured, if there are any."""
    measured = {name for cell in cells for name in cell.result().get("figures", {})}
    missing = [name for name in ablation.figures if measured and name not in measured]
    if not missing:
        return []
    there = ", ".join(sorted(name for name in measured if not name.startswith("intervals.")))
    return [f"figures: no cell has measured {', '.join(missing)}; there are {there}"]


def read_ablation(path: Path) -> Ablation:
    """Return the ablation in a file. Raises `UserError`.

    What it compares is its own: variants and sweeps of the file that it is based on do not count.
    """
    layers: list[dict[str, Any]] = []
    for layer in read_layers(path):
        if any(key in layer for key in COMPARED):
            layers = [{k: v for k, v in each.items() if k not in COMPARED} for each in layers]
        layers.append(layer)
    return from_layers(Ablation, layers, str(path))


def miniature(ablation: Ablation) -> Ablation:
    """Return an ablation that tries all of one in a minute: few updates and seeds, small models.

    What trains measures itself; where only evaluate.py does, its counts are at most `SMOKE_COUNT`.
    """
    count = len(variants(ablation))
    seeds = ablation.seeds[: SMOKE_SEEDS if count * SMOKE_SEEDS <= SMOKE_CELLS else 1]
    budget = dataclasses.replace(
        type(ablation.budget)(), updates=0 if ablation.script == EVALUATE else SMOKE_UPDATES
    )
    return dataclasses.replace(
        ablation,
        set=dotted(ablation.set) | dotted(ablation.smoke),
        seeds=seeds,
        budget=budget,
        points=1,
        evaluate=[_smaller(each) for each in ablation.evaluate]
        if ablation.script == EVALUATE
        else [],
    )


def _smaller(argument: str) -> str:
    return str(min(int(argument), SMOKE_COUNT)) if argument.isdecimal() else argument


def plan_cells(ablation: Ablation, out: Path, threads: int, dry: bool = False) -> "list[Cell]":
    """Return all cells with their numbers of updates; a budget in minutes is timed first.

    Raises:
        UserError: an option that the script does not have, or a budget that buys no update.
    """
    from experiments.ablation.budget import updates_for
    from experiments.ablation.cells import cells_of, check_variants
    from experiments.ablation.timing import seconds_of

    made = variants(ablation)
    configs = check_variants(ablation, made)
    if ablation.script == EVALUATE:
        return cells_of(ablation, [(variant, 0) for variant in made], out)
    timed = ablation.budget.kind == "minutes"
    seconds = seconds_of(ablation, made, out, threads, dry) if timed else {}
    lengths = [
        0  # not timed yet
        if timed and variant.name not in seconds
        else updates_for(ablation.budget, configs[variant.name], seconds.get(variant.name, 0.0))
        for variant in made
    ]
    return cells_of(ablation, list(zip(made, lengths, strict=True)), out)


def costs(cells: "Sequence[Cell]") -> str:
    """Return a table of the cells: updates, operations and minutes, as far as known."""
    from experiments.ablation.budget import operations
    from experiments.ablation.cells import DONE, script_config

    lines = [["cell", "status", "updates", "operations", "core minutes"]]
    known: dict[str, float] = {}
    for cell in cells:
        result = cell.result()
        if result["status"] == DONE:
            known.setdefault(cell.variant.name, result["seconds"])
    work: dict[str, float] = {}
    for cell in cells:
        name = cell.variant.name
        if cell.train and name not in work:
            work[name] = operations(script_config(cell.ablation, cell.train))
        minutes = f"{known[name] / 60:.1f}" if name in known else "not known yet"
        flops = f"{work[name] * cell.updates:.2e}" if cell.updates else ""
        updates = f"{cell.updates:,}" if cell.updates else "by its speed" if cell.train else ""
        lines.append([cell.name, cell.result()["status"], updates, flops, minutes])
    return table(lines)


if __name__ == "__main__":
    raise SystemExit(main())
