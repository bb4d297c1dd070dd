"""What an ablation is: a base, named changes of it, seeds and a budget. A YAML file holds it."""

import itertools
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any

from dalle_base.common.bounds import Bounds, From0, Seed, Weight
from dalle_base.common.config import Layer, parse_overrides, read_texts
from dalle_base.common.errors import UserError
from dalle_base.common.registry import Registry
from dalle_base.common.shown import short
from dalle_base.common.yaml_text import dump_yaml

SCRIPTS: Registry[Any] = Registry(
    {
        "train_dvae": "train_dvae:TrainDVAE",
        "train_dalle": "train_dalle:TrainDALLE",
        "train_clip": "train_clip:TrainDualEncoder",
        "experiments.learning_speed": "experiments.learning_speed:LearningSpeed",
    }
)
"""What trains a cell, and its config. ADD A SCRIPT = one line here, and perhaps one below."""
MODELS = {"train_dvae": "tokenizer"}
"""Folder inside run.out with what a script has trained, where it is not `model`."""
EVALUATE = "evaluate"
"""In place of a script: nothing is trained, and the changes are options of evaluate.py."""
CONFIG = "config"
"""Key of a variant that changes another base config than the ablation's: another kind of model."""
BETTER = ("lower", "higher")
OWN = ("run.seed", "run.updates", "run.out", "run.minutes", "run.passes")
"""Options of a run that belong to the ablation: its seeds, its budget, its folder."""
MOST_CELLS = 10_000


@dataclass
class Budget:
    """What every cell may spend on training: one of these."""

    updates: From0 = 0
    """Updates."""
    images: From0 = 0
    """Training images, each counted as often as it is seen."""
    tokens: From0 = 0
    """Text and image tokens of a transformer."""
    flops: Weight = 0.0
    """Floating-point operations, forward and backward."""
    minutes: Annotated[float, Bounds(0, 1e6)] = 0.0
    """Minutes of training, by the speed that each variant shows in a few updates beforehand."""

    @property
    def kind(self) -> str:
        """The one that is set. Raises `UserError` unless exactly one is."""
        kinds = [name for name, value in vars(self).items() if value]
        if len(kinds) != 1:
            what = f"sets {' and '.join(kinds)}" if kinds else "is empty"
            raise UserError(f"budget {what}; set one of {', '.join(vars(self))}")
        return kinds[0]


@dataclass
class Ablation:
    """A base, what is changed of it, and how the results are compared."""

    question: str = ""
    """What it is to answer, in a sentence."""
    script: str = "train_dalle"
    """What trains a cell: a name in SCRIPTS; evaluate: nothing is trained, and evaluate.py measures
    one model in several ways."""
    config: str = ""
    """Base config of the script; of evaluate.py, the one whose held-out data is measured on."""
    model: str = ""
    """Model folder, for `script: evaluate` alone."""
    set: dict[str, Any] = field(default_factory=dict)
    """Changes of the base in all cells, by dotted name or as nested mappings."""
    variants: dict[str, dict[str, Any]] = field(default_factory=dict)
    """Changes by the name of the variant; {} is the base as it is. `config` among them: of another
    base config."""
    sweep: dict[str, list[Any]] = field(default_factory=dict)
    """Values of an option, each a variant; of two options: all pairs, a grid."""
    against: str = ""
    """Variant that the others are compared with; where empty, the first."""
    seeds: list[Seed] = field(default_factory=lambda: [0, 1, 2])
    """Seeds: each variant is trained once from each."""
    budget: Budget = field(default_factory=Budget)
    """Length of each training."""
    points: Annotated[int, Bounds(1, 1000)] = 8
    """Measurements on held-out data in a training: the points of its curve."""
    evaluate: list[str] = field(default_factory=list)
    """Arguments of evaluate.py behind the model and its config; where empty, the figures are those
    that training itself measures last."""
    figures: dict[str, str] = field(default_factory=dict)
    """Figures that the table shows, in this order, and whether lower or higher is better."""
    captions: list[str] = field(default_factory=list)
    """Captions sampled from each variant's first seed, side by side."""
    smoke: dict[str, Any] = field(default_factory=dict)
    """Further changes of the base under --smoke: smaller models, less data."""

    def validate(self) -> None:
        """Raise `UserError` on what no ablation can be."""
        if self.script != EVALUATE:
            SCRIPTS.check("script", self.script)
            self.budget.kind  # noqa: B018  # raises
        elif not self.model:
            raise UserError("script: evaluate needs the model to measure: set model")
        if not self.config and self.script != EVALUATE:
            raise UserError("config is empty; name the base config of the script")
        if not self.figures:
            raise UserError("figures is empty; name what the table shows: {held_out_loss: lower}")
        for name, better in self.figures.items():
            if better not in BETTER:
                raise UserError(f"figures.{name} is {better!r}; use one of {', '.join(BETTER)}")
        if not self.seeds or len(set(self.seeds)) < len(self.seeds):
            raise UserError("seeds must be numbers, each once")
        self._check_variants()

    def _check_variants(self) -> None:
        if len(self.sweep) > 2:
            raise UserError(f"sweep has {len(self.sweep)} options; at most two make a grid")
        if empty := [key for key, values in self.sweep.items() if not values]:
            raise UserError(f"sweep.{empty[0]} has no values")
        names = [variant.name for variant in variants(self)]
        if not names:
            raise UserError("nothing is changed: name variants, or a sweep")
        if len(names) * len(self.seeds) > MOST_CELLS:
            raise UserError(f"more than {MOST_CELLS:,} cells; leave some out")
        folders: dict[str, str] = {}
        for name in names:
            other = folders.setdefault(folder_name(name), name)
            if names.count(name) > 1 or other != name:
                raise UserError(f"two cells would be called {short(name)} and {short(other)}")
        if self.against and self.against not in names:
            raise UserError(f"against is {self.against!r}; use one of {', '.join(names)}")


@dataclass(frozen=True)
class Variant:
    """A named change of the base."""

    name: str
    changes: Mapping[str, Any]
    """By dotted name, those of `set` first."""
    values: tuple[Any, ...] = ()
    """Its place in a sweep."""


def variants(ablation: Ablation) -> list[Variant]:
    """Return what is compared, the base of the comparison first."""
    shared = dotted(ablation.set)
    made = [
        Variant(name, shared | dotted(changes or {})) for name, changes in ablation.variants.items()
    ]
    if ablation.sweep:
        keys = list(ablation.sweep)
        for values in itertools.product(*ablation.sweep.values()):
            changes = dict(zip(keys, values, strict=True))
            name = ", ".join(f"{key.rpartition('.')[2]}={written(v)}" for key, v in changes.items())
            made.append(Variant(name, shared | changes, values))
    against = ablation.against or (made[0].name if made else "")
    return sorted(made, key=lambda variant: variant.name != against)


def dotted(changes: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return nested mappings as one, by dotted names."""
    flat: dict[str, Any] = {}
    for key, value in changes.items():
        if isinstance(value, Mapping) and value:
            flat |= dotted(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def written(value: Any) -> str:
    """Return a value as a command line has it."""
    if isinstance(value, str):
        return value
    return dump_yaml(value, default_flow_style=True, width=10_000).removesuffix("...\n").strip()


def arguments(changes: Mapping[str, Any]) -> list[str]:
    """Return changes as `key=value` arguments of a script."""
    return [f"{key}={written(value)}" for key, value in changes.items()]


def flags(changes: Mapping[str, Any]) -> list[str]:
    """Return changes as options of evaluate.py: {top_k: 5} as `--top-k 5`."""
    made: list[str] = []
    for key, value in changes.items():
        made += [f"--{key.replace('_', '-')}", *([] if value is True else [written(value)])]
    return made


def folder_name(name: str) -> str:
    """Return the name of a variant's folder."""
    return re.sub(r"[^\w.=+-]+", "-", name).strip("-.") or "variant"


def check_owned(variant: Variant) -> None:
    """Raise `UserError` where a variant changes what the ablation decides."""
    for key in variant.changes:
        if key in OWN:
            raise UserError(
                f"variant {short(variant.name)} sets {key}, which the ablation decides: "
                "use seeds and budget"
            )


def overlay_texts(texts: list[str], default: Any) -> Layer:
    """Return `key=value` arguments as a layer whose values have their fields' types."""
    return read_texts(parse_overrides(texts, default), default)
