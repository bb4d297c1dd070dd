"""What was measured of a model, as lines on the screen and as one JSON record."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dalle_base.common.report import write_json
from dalle_evaluation.intervals import Interval, Score, Values, interval

SAMPLE, RECONSTRUCTION = "sample_", "reconstruction_"
"""In the names of figures of samples, and of their ceilings."""


@dataclass(frozen=True)
class Report:
    """The figures of one model by name."""

    figures: Mapping[str, Interval | float]
    """With their intervals; a plain number has none."""
    scores: Mapping[str, Score] = field(default_factory=dict)
    """Of samples, beside those of real images."""
    judge: Mapping[str, Any] = field(default_factory=dict)
    """The judge's findings as JSON; empty without --judge."""
    more: Mapping[str, Any] = field(default_factory=dict)
    """What else is written as JSON and not printed."""

    def lines(self) -> list[str]:
        """Return the figures as they are printed, a line each."""
        width = max(map(len, [*self.figures, *self.scores]), default=0)
        lines = []
        for name, figure in self.figures.items():
            line = f"{name:<{width}}  {written(figure)}"
            ceiling = self.figures.get(name.replace(SAMPLE, RECONSTRUCTION))
            if SAMPLE in name and ceiling is not None:
                line += f"  reconstructions {written(ceiling)}"
            lines.append(line)
        for name, score in self.scores.items():
            pair = f"{written(score.sampled)}  real images {written(score.real)}"
            lines.append(f"{name:<{width}}  {pair}")
        return lines

    def record(self) -> dict[str, Any]:
        """Return all of it as JSON: values by name, their intervals under `intervals`."""
        values, intervals = {}, {}
        for name, figure in self.figures.items():
            if isinstance(figure, Interval):
                values[name] = figure.value
                intervals[name] = {"low": figure.low, "high": figure.high}
            else:
                values[name] = figure
        parts = {
            "intervals": intervals,
            "scores": {
                name: {"drawn": score.sampled._asdict(), "real": score.real._asdict()}
                for name, score in self.scores.items()
            },
            "judge": self.judge,
            **self.more,
        }
        return values | {name: part for name, part in parts.items() if part}

    def show(self, path: Path | None) -> None:
        """Print the figures, and write all to a file if there is one."""
        print("\n".join(self.lines()))
        if path:
            write_json(path, self.record())


def written(figure: Interval | float) -> str:
    """Return a figure with its interval."""
    if isinstance(figure, Interval):
        return f"{figure.value:.4f} [{figure.low:.4f}, {figure.high:.4f}]"
    return f"{figure:.4f}"


def with_intervals(
    values: Mapping[str, Values], resamples: int, before: str = ""
) -> dict[str, Interval]:
    """Return figures with their intervals, `before` put before their names."""
    return {before + name: interval(each, resamples) for name, each in values.items()}
