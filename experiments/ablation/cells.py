"""Cells: a variant trained from a seed, in a folder of its own, and what became of each."""

import contextlib
import io
import json
import os
import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dalle_base.common.checkout import CHECKOUT, in_checkout
from dalle_base.common.config import from_layers
from dalle_base.common.errors import UserError
from dalle_base.common.free import options
from dalle_base.common.report import write_json
from dalle_base.common.schema import to_mapping
from dalle_base.common.shown import short
from dalle_base.training.changes import load_run_config
from experiments.ablation.config import (
    CONFIG,
    EVALUATE,
    MODELS,
    SCRIPTS,
    Ablation,
    Variant,
    arguments,
    check_owned,
    flags,
    folder_name,
)

PLAN, RESULT, LOG, SAMPLES = "plan.json", "result.json", "log.txt", "samples.png"
DONE, FAILED, WAITING = "finished", "failed", "not finished"


@dataclass(frozen=True)
class Cell:
    """What is to be done for one variant and seed."""

    variant: Variant
    seed: int
    folder: Path
    updates: int
    train: list[str]
    """Arguments of the script; empty where nothing is trained."""
    evaluate: list[str]
    """Arguments of evaluate.py, the model first; empty where nothing more is measured."""
    ablation: Ablation
    samples: bool = True
    """Whether it may sample images."""

    @property
    def name(self) -> str:
        """How messages call it."""
        return f"{self.variant.name}, seed {self.seed}"

    @property
    def model(self) -> Path:
        """Folder of the model that is trained, or only measured."""
        if self.ablation.script == EVALUATE:
            return in_checkout(self.ablation.model)
        return self.folder / "run" / MODELS.get(self.ablation.script, "model")

    @property
    def commands(self) -> list[str]:
        """The commands that do the same by hand."""
        made = []
        if self.train:
            script = self.ablation.script
            start = f"python {script}.py" if "." not in script else f"python -m {script}"
            made.append(f"{start} {shlex.join(self.train)}")
        if self.evaluate:
            made.append(f"python evaluate.py {shlex.join(self.evaluate)}")
        return made

    def plan(self) -> dict[str, Any]:
        """What the cell is, as JSON: one that is finished must be the same when it is met again."""
        return {
            "script": self.ablation.script,
            "train": [text for text in self.train if not text.startswith("run.out=")],
            "evaluate": self.evaluate[1:-2],  # all but places
            "captions": self.captions,
            "model": str(self.model.resolve()),
            "config": self._config(),
        }

    @property
    def captions(self) -> list[str]:
        """What it samples: the first seed of each variant shows its images."""
        first = self.seed == self.ablation.seeds[0]
        return self.ablation.captions if first and self.samples else []

    def _config(self) -> dict[str, Any]:
        """All that the script's config comes to: the base's files count too."""
        if not self.train:
            return {}
        config = to_mapping(script_config(self.ablation, self.train))
        config["run"].pop("out")
        return json.loads(json.dumps(config))

    def result(self) -> dict[str, Any]:
        """What became of it: `status` and, where it has failed, `reason`; else its figures."""
        try:
            return json.loads((self.folder / RESULT).read_text("utf-8"))
        except (OSError, ValueError):
            return {"status": WAITING}

    def write_plan(self) -> None:
        """Write down what the cell is. Raises `UserError`: a finished one was something else."""
        path, plan = self.folder / PLAN, self.plan()
        if (self.folder / RESULT).exists() or (self.folder / "run").exists():
            difference = _difference(_read(path), plan)
            if difference:
                raise UserError(
                    f"{self.folder} was made for something else ({difference}): name another "
                    "folder with --out, or delete that one"
                )
        write_json(path, plan)


def cells_of(ablation: Ablation, made: Sequence[tuple[Variant, int]], out: Path) -> list[Cell]:
    """Return the cells of variants with their numbers of updates, the base's first of each seed."""
    return [
        _cell(ablation, variant, updates, seed, out)
        for seed in ablation.seeds
        for variant, updates in made
    ]


def _cell(ablation: Ablation, variant: Variant, updates: int, seed: int, out: Path) -> Cell:
    folder = out / "cells" / folder_name(variant.name) / f"seed-{seed}"
    if ablation.script == EVALUATE:
        measured = [str(in_checkout(ablation.model)), *_data(ablation), *ablation.evaluate]
        measured += [*flags(variant.changes), "--seed", str(seed)]
        train = []
    else:
        train = train_arguments(ablation, variant, updates, folder / "run", seed)
        model = folder / "run" / MODELS.get(ablation.script, "model")
        measured = [str(model), *_data(ablation, variant), *ablation.evaluate]
        measured = measured if ablation.evaluate else []
    if measured:
        measured += ["--json", str(folder / "evaluation.json")]
    return Cell(variant, seed, folder, updates, train, measured, ablation)


def _data(ablation: Ablation, variant: Variant | None = None) -> list[str]:
    """What tells evaluate.py the held-out data."""
    config = base_of(ablation, variant) if variant else ablation.config
    return ["--config", str(in_checkout(config))] if config else []


def base_of(ablation: Ablation, variant: Variant) -> str:
    """Return the config that a variant changes: the ablation's, or another that it names."""
    return str(variant.changes.get(CONFIG, ablation.config))


def train_arguments(
    ablation: Ablation, variant: Variant, updates: int, out: Path, seed: int
) -> list[str]:
    """Return the script's arguments for one training."""
    updates = max(1, updates)  # before it is timed
    each = max(1, updates // ablation.points)
    return [
        *("--config", str(in_checkout(base_of(ablation, variant)))),
        *arguments({key: value for key, value in variant.changes.items() if key != CONFIG}),
        *(f"run.seed={seed}", f"run.updates={updates}", f"run.out={out}"),
        *(f"run.evaluate_every={each}", f"run.save_every={each}"),
        f"run.log_every={max(1, updates // 50)}",
    ]


def script_config(ablation: Ablation, texts: Sequence[str]) -> Any:
    """Return the config that a script makes of its arguments. Raises `UserError`."""
    return load_run_config(SCRIPTS[ablation.script], "", texts)


def check_variants(ablation: Ablation, made: Sequence[Variant]) -> dict[str, Any]:
    """Return the script's config of each variant by name. Raises `UserError` for one with none."""
    configs: dict[str, Any] = {}
    for variant in made:
        try:
            if ablation.script == EVALUATE:
                check_flags(["model", *_data(ablation), *ablation.evaluate], variant)
                continue
            check_owned(variant)
            texts = train_arguments(ablation, variant, 1, Path("unused"), ablation.seeds[0])
            configs[variant.name] = script_config(ablation, texts)
            check_flags(["model", *_data(ablation, variant), *ablation.evaluate])
        except UserError as error:
            raise UserError(f"variant {short(variant.name)}: {error}") from None
    return configs


def check_flags(texts: list[str], variant: Variant | None = None) -> None:
    """Raise `UserError` on what evaluate.py would refuse as arguments."""
    from evaluate import parse_arguments

    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said):
            parse_arguments([*texts, *(flags(variant.changes) if variant else [])])
    except SystemExit:
        line = said.getvalue().strip().splitlines()[-1].removeprefix("error: ")
        raise UserError(f"evaluate.py: {line}") from None


def worker_command(cell: Cell) -> tuple[list[str], dict[str, str]]:
    """Return what starts a cell's process, and its environment."""
    command = [sys.executable, "-m", "experiments.ablation.work", str(cell.folder.resolve())]
    path = os.pathsep.join(filter(None, [str(CHECKOUT), os.environ.get("PYTHONPATH", "")]))
    return command, os.environ | {"PYTHONPATH": path}


def _read(path: Path) -> Any:
    try:
        return json.loads(path.read_text("utf-8"))
    except (OSError, ValueError):
        return None


def _difference(before: Any, now: dict[str, Any]) -> str:
    """What tells two plans apart, in words; empty: nothing, or there was none before."""
    if before is None:
        return ""
    if not isinstance(before, dict):
        return PLAN
    for key in ("script", "model", "train", "evaluate", "captions"):
        old, new = before.get(key), now[key]
        if isinstance(old, list) and isinstance(new, list):
            gone, come = [x for x in old if x not in new], [x for x in new if x not in old]
            if gone or come:
                return f"{' '.join(gone) or 'nothing'} then, {' '.join(come) or 'nothing'} now"
        elif old != new:
            return f"{key} {old} then, {new} now"
    return _changed_option(now["script"], before.get("config"), now["config"])


def _changed_option(script: str, before: Any, now: dict[str, Any]) -> str:
    """An option of the script that the base config now sets otherwise, in words; empty: none."""
    if before == now:
        return ""
    try:
        # As this version reads it: options may have come to be since then.
        configs = [from_layers(SCRIPTS[script], [each], PLAN) for each in (before, now)]
    except (UserError, AttributeError, TypeError):
        return "its base config has changed"
    old, new = ({key: o.value for key, o in options(each).items()} for each in configs)
    for key in sorted(old.keys() | new.keys()):
        if old.get(key) != new.get(key):
            return f"{key} {short(old.get(key))} then, {short(new.get(key))} now"
    return ""
