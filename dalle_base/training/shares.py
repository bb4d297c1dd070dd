"""Schedules that follow the run's length: numbers of updates written as shares of it.

`optimiser.decay_updates: 100%` ends the cosine with the run, however long it is. A config's fields
hold numbers; which of them are shares is kept in `run.shares`.
"""

import functools
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from dalle_base.common.report import say
from dalle_base.common.schema import overlay

COUNTED = frozenset(
    (
        *("decay_updates", "warmup_updates", "plateau_patience", "kl_updates"),
        *("temperature_updates", "scale_learned_after", "start", "ramp", "augmented_updates"),
        *("log_every", "evaluate_every", "save_every"),
    )
)
"""Fields that count updates and may be written as a share of run.updates."""
SCHEDULES = (
    *("optimiser.warmup_updates", "optimiser.decay_updates"),
    *("model.objective.kl_updates", "model.objective.temperature_updates"),
    *("model.objective.adversarial.start",),
)
"""Schedules that a run should see the end of."""
SHARE = re.compile(r"\s*(\d+(?:\.\d*)?|\.\d+)\s*%\s*")
UPDATES, PASSES, SHARES = "run.updates", "run.passes", "run.shares"
LEAST = 4
"""A run that ends after so many passes takes at least this part (a quarter) of run.updates."""

Layer = Mapping[str, Any]


def resolve_shares(layers: Sequence[Layer], updates: int) -> list[dict[str, Any]]:
    """Return config layers with shares as numbers of updates, and `run.shares` on top.

    Args:
        layers: the first laid down first; a number in one takes the place of a share below it.
        updates: the run's length where no layer says it.
    """
    written = [dict(flatten(layer)) for layer in layers]
    length = _length(written, updates)
    shares: dict[str, float] = {}
    for flat in written:
        kept: dict[str, Any] = {}
        for key, value in flat.items():
            if key.startswith(f"{SHARES}."):
                kept[key.removeprefix(f"{SHARES}.")] = value
            elif (share := _share(key, value)) is not None:
                shares[key] = share
            else:
                shares.pop(key, None)
        shares |= kept
    top: dict[str, Any] = {"run": {"shares": shares}} if shares else {}
    for key, share in shares.items():
        if is_share(key, share):  # what is none is the config's to refuse
            top = overlay(top, nested(key, part_of(share, length)))
    if any(not isinstance(layer.get("run", {}), Mapping) for layer in layers):
        return [dict(layer) for layer in layers]  # the config's to refuse
    if _last(written, UPDATES) > _last(written, PASSES):  # asked for, so no passes cut it short
        top = overlay(top, {"run": {"passes": 0}})
    plain = [_without_shares(layer, length) for layer in layers]
    return [*plain, top] if top else plain


def part_of(share: float, updates: int) -> int:
    """Return a share of a run in updates: at least one, unless the share is 0."""
    return max(1, round(share * updates)) if share > 0 else 0


def fit_run(run: Any, source: Any) -> None:
    """Fix a run's length by the data, and what follows from it; say which schedules do not end.

    Args:
        run: with `config` and `options`, which are changed in place, and `accelerator`.
        source: of the images that are trained on. What has no length does not decide the run's.
    """
    options = run.options
    images = len(source) if options.passes and not hasattr(source, "sample") else 0
    batch = options.batch_size * run.accelerator.num_processes * options.accumulate
    if images:
        wanted = max(math.ceil(options.passes * images / batch), options.updates // LEAST, 1)
        options.updates = min(wanted, options.updates)
    for key, share in options.shares.items():
        owner, name = _owner(run.config, key)
        if hasattr(owner, name):
            setattr(owner, name, part_of(share, options.updates))
    if (line := too_long(run.config)) and run.accelerator.is_main_process:
        say(line)


def too_long(config: Any) -> str:
    """Return a line that names the schedules which end after the run does; "" if all end."""
    found = []
    for key in SCHEDULES:
        owner, name = _owner(config, key)
        value = getattr(owner, name, 0)
        if value > config.run.updates and _counts(owner, name):
            found.append(f"{key}={value}")
    if not found:
        return ""
    return (
        f"longer than the run of {config.run.updates} updates: {', '.join(found)}; a share such as "
        "100% follows the run's length"
    )


def without_shares(before: Layer, now: Layer) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return two configs, as flat mappings, without what follows the run's length in both alike.

    They are those of a run and of the command that resumes it.
    """
    at = f"{SHARES}."
    lengths = before.get(UPDATES), now.get(UPDATES)
    both = {key for key in before.keys() & now.keys() if before[key] == now[key]}
    alike = {PASSES, *(key.removeprefix(at) for key in both if key.startswith(at))}
    if len(alike) > 1 and lengths[0] != lengths[1]:
        names = ", ".join(sorted(alike - {PASSES}))
        say(f"run.updates was {lengths[0]} and is {lengths[1]} now: {names} follow it")
    first, second = (
        {k: v for k, v in each.items() if k not in alike and not k.startswith((at, SHARES))}
        for each in (before, now)
    )
    return first, second


def flatten(layer: Layer, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield the dotted keys of nested mappings, with their values."""
    for key, value in layer.items():
        if isinstance(value, Mapping):
            yield from flatten(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def nested(key: str, value: Any) -> dict[str, Any]:
    """Return a dotted key as nested mappings."""
    for part in reversed(key.split(".")):
        value = {part: value}
    return value


def _share(key: str, value: Any) -> float | None:
    if key.rpartition(".")[2] not in COUNTED or not isinstance(value, str):
        return None
    match = SHARE.fullmatch(value)
    return float(match[1]) / 100 if match else None


def is_share(key: str, value: Any) -> bool:
    """Whether a key and its value make an entry of `run.shares`."""
    number = isinstance(value, int | float) and not isinstance(value, bool)
    return number and 0 <= value < math.inf and key.rpartition(".")[2] in COUNTED


def _counts(owner: Any, name: str) -> bool:
    """Whether a schedule changes anything as the rest of its config is."""
    if name == "decay_updates":
        return getattr(owner, "schedule", "cosine") == "cosine"
    if name == "kl_updates":
        return bool(getattr(owner, "kl_weight", 1))
    if name == "start":
        return bool(getattr(owner, "weight", 1))
    if name == "temperature_updates":
        return getattr(owner, "temperature_start", 1) != getattr(owner, "temperature_end", 0)
    return True


def _length(written: Sequence[Layer], usual: int) -> int:
    """Return run.updates as layers have it; `usual` where it is missing or no number at all."""
    value = next((flat[UPDATES] for flat in reversed(written) if UPDATES in flat), usual)
    try:
        number = float(value)
    except (TypeError, ValueError):
        return usual
    return int(number) if 1 <= number < 2**53 else usual


def _last(written: Sequence[Layer], key: str) -> int:
    return max((number for number, flat in enumerate(written) if key in flat), default=-1)


def _without_shares(layer: Layer, length: int, prefix: str = "") -> dict[str, Any]:
    plain: dict[str, Any] = {}
    for key, value in layer.items():
        name = f"{prefix}{key}"
        if name == SHARES and isinstance(value, Mapping):
            continue
        if isinstance(value, Mapping):
            plain[key] = _without_shares(value, length, f"{name}.")
        else:
            share = _share(name, value)
            plain[key] = value if share is None else part_of(share, length)
    return plain


def _owner(config: Any, key: str) -> tuple[Any, str]:
    """Return the part of a config that has a dotted key's field (None: there is none), its name."""
    *path, name = key.split(".")
    return functools.reduce(lambda at, part: getattr(at, part, None), path, config), name
