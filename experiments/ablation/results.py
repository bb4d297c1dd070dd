"""What cells have come to: means over seeds, their intervals, and differences from the base."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from dalle_evaluation.intervals import Interval, mean_interval
from experiments.ablation.cells import DONE, FAILED, Cell
from experiments.ablation.config import Ablation, Variant

RESAMPLES = 10_000
BETTER, WORSE, OPEN = "better", "worse", "open"


@dataclass(frozen=True)
class Compared:
    """A figure of a variant, over the seeds that are finished."""

    figure: str
    mean: Interval
    difference: Interval | None
    """From the base, seed by seed; None for the base itself, or where no seed has both."""
    verdict: str
    """better, worse, or open where the interval of the difference has 0 in it or no width."""


@dataclass(frozen=True)
class Row:
    """A variant in the table."""

    variant: Variant
    updates: int
    finished: int
    seconds: float
    """Processor time of a cell, on average; 0 where none is finished."""
    compared: Mapping[str, Compared]
    """By figure; those that it has."""
    failures: Sequence[str]
    """Reasons, each with its seed."""


def rows(ablation: Ablation, cells: Sequence[Cell]) -> list[Row]:
    """Return the table's rows, the base first."""
    of_variant: dict[str, list[tuple[Cell, dict[str, Any]]]] = {}
    for cell in cells:
        of_variant.setdefault(cell.variant.name, []).append((cell, cell.result()))
    base = _figures(next(iter(of_variant.values())))
    return [
        _row(ablation, made, base, number == 0) for number, made in enumerate(of_variant.values())
    ]


def _figures(made: Sequence[tuple[Cell, dict[str, Any]]]) -> dict[int, dict[str, float]]:
    return {cell.seed: result["figures"] for cell, result in made if result["status"] == DONE}


def _row(
    ablation: Ablation,
    made: Sequence[tuple[Cell, dict[str, Any]]],
    base: Mapping[int, Mapping[str, float]],
    is_base: bool,
) -> Row:
    own = _figures(made)
    compared = {
        name: found
        for name, better in ablation.figures.items()
        if (found := compare(name, better, own, {} if is_base else base)) is not None
    }
    seconds = [result["seconds"] for _, result in made if result["status"] == DONE]
    failures = [
        f"seed {cell.seed}: {result['reason']}"
        for cell, result in made
        if result["status"] == FAILED
    ]
    first = made[0][0]
    mean = float(np.mean(seconds)) if seconds else 0.0
    return Row(first.variant, first.updates, len(own), mean, compared, failures)


def compare(
    name: str,
    better: str,
    own: Mapping[int, Mapping[str, float]],
    base: Mapping[int, Mapping[str, float]],
) -> Compared | None:
    """Return a figure's mean over seeds and its difference from the base, seed by seed.

    Args:
        name: of the figure.
        better: whether `lower` or `higher` is.
        own: figures of a variant by seed.
        base: figures of the base by seed; empty: compared with nothing.

    Returns:
        None where no seed has the figure.
    """
    values = {seed: figures[name] for seed, figures in own.items() if name in figures}
    if not values:
        return None
    mean = mean_interval(np.array(list(values.values())), RESAMPLES)
    pairs = [
        value - base[seed][name] for seed, value in values.items() if name in base.get(seed, ())
    ]
    if not pairs:
        return Compared(name, mean, None, "")
    difference = mean_interval(np.array(pairs), RESAMPLES)
    return Compared(name, mean, difference, verdict(difference, better, len(pairs)))


def verdict(difference: Interval, better: str, seeds: int) -> str:
    """Return whether a difference is better or worse; open where its interval does not say so.

    One seed says nothing of another one.
    """
    if seeds < 2 or difference.low <= 0 <= difference.high:
        return OPEN
    return BETTER if (difference.high < 0) == (better == "lower") else WORSE
