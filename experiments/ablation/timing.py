"""How long an update of each variant takes, where the budget is in minutes."""

import json
from collections.abc import Sequence
from pathlib import Path

from dalle_base.common.errors import UserError
from dalle_base.common.report import say, write_json
from experiments.ablation.budget import TIMED, seconds_per_update
from experiments.ablation.cells import FAILED, Cell, train_arguments
from experiments.ablation.config import Ablation, Variant, folder_name
from experiments.ablation.workers import run_alone

TIMES = "timings.json"


def seconds_of(
    ablation: Ablation, made: Sequence[Variant], out: Path, threads: int, dry: bool
) -> dict[str, float]:
    """Return the seconds of an update by variant, timed one after the other, each once and for all.

    What was timed before is read from the folder, so that a command that goes on has the same
    lengths. With `dry` nothing is timed. Raises `UserError` where a variant does not train.
    """
    path = out / TIMES
    times: dict[str, float] = json.loads(path.read_text("utf-8")) if path.exists() else {}
    for variant in made:
        if dry or variant.name in times:
            continue
        say(f"timing {variant.name}")
        folder = out / "timings" / folder_name(variant.name)
        folder.mkdir(parents=True, exist_ok=True)
        train = train_arguments(ablation, variant, TIMED, folder / "run", ablation.seeds[0])
        train += ["run.log_every=1", f"run.evaluate_every={TIMED}", f"run.save_every={TIMED}"]
        cell = Cell(variant, ablation.seeds[0], folder, TIMED, train, [], ablation, samples=False)
        cell.write_plan()
        run_alone(cell, threads)
        result = cell.result()
        if result["status"] == FAILED:
            raise UserError(f"variant {variant.name!r} does not train: {result['reason']}")
        times[variant.name] = seconds_per_update(folder / "run" / "metrics.jsonl")
        write_json(path, times)
    return times
