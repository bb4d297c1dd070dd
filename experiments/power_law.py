r"""The power law of an ablation that crosses sizes of the model with sizes of the data.

python -m experiments.power_law configs/ablations/scaling.yaml --out runs/ablations/scaling

Fits L(N, D) = E + A / N^a + B / D^b (Hoffmann et al. 2022, 2203.15556, equation 2) to the last
held-out loss of each finished cell: N weights of the model's blocks (as in Kaplan et al. 2020,
2001.08361, embeddings and heads do not count), D training images. Intervals are over seeds drawn
again. Writes power-law.md and power-law.png into the ablation's folder.
"""

import argparse
import math
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from matplotlib.figure import Figure
from safetensors import safe_open

from dalle_base.common.checkout import in_checkout
from dalle_base.common.errors import UserError, command
from dalle_base.common.files import write_file, write_text
from dalle_evaluation.intervals import Interval
from experiments.ablation.cells import DONE, Cell
from experiments.run import plan_cells, read_ablation

EXPONENTS = np.geomspace(0.05, 3, 60)
"""Where exponents are looked for."""
RESAMPLES = 200
SIZE, COUNT = "model.d_model", "data.count"
"""What the ablation must sweep."""


class Point(NamedTuple):
    """One training."""

    weights: int
    images: int
    seed: int
    loss: float


class Law(NamedTuple):
    """L(N, D) = floor + size_factor / N^size_exponent + data_factor / D^data_exponent."""

    floor: float
    size_factor: float
    size_exponent: float
    data_factor: float
    data_exponent: float

    def __call__(self, weights: np.ndarray, images: np.ndarray) -> np.ndarray:
        """Return the losses that it foretells."""
        size = self.size_factor / weights**self.size_exponent
        return self.floor + size + self.data_factor / images**self.data_exponent


def fit(points: Sequence[Point]) -> Law:
    """Return the law with the least sum of squared relative errors.

    For each pair of exponents the rest is linear; what would be negative is no law.

    Raises:
        UserError: fewer than three sizes of either, or losses that fall with neither.
    """
    weights = np.array([point.weights for point in points], float)
    images = np.array([point.images for point in points], float)
    losses = np.array([point.loss for point in points])
    for name, values in (("sizes of the model", weights), ("sizes of the data", images)):
        if len(set(values)) < 3:
            raise UserError(f"a power law needs three {name}; finished cells have fewer")
    # Scaled to 1 at the smallest, which keeps the columns alike in size.
    size = (weights / weights.min()) ** -EXPONENTS[:, None]
    data = (images / images.min()) ** -EXPONENTS[:, None]
    pairs = [grid.ravel() for grid in np.indices((len(EXPONENTS), len(EXPONENTS)))]
    columns = [np.ones((len(pairs[0]), len(losses))), size[pairs[0]], data[pairs[1]]]
    design = np.stack(columns, axis=2) / losses[:, None]  # [pairs, points, 3]
    factors = np.linalg.pinv(design).sum(axis=2)
    errors = np.square(np.einsum("epf,ef->ep", design, factors) - 1).sum(axis=1)
    errors[(factors < 0).any(axis=1)] = math.inf
    best = int(errors.argmin())
    if errors[best] == math.inf:
        raise UserError("the losses fall neither with the model nor with the data: no power law")
    a, b = (float(EXPONENTS[indices[best]]) for indices in pairs)
    floor, size_factor, data_factor = map(float, factors[best])
    return Law(floor, size_factor * weights.min() ** a, a, data_factor * images.min() ** b, b)


def intervals(points: Sequence[Point], law: Law, resamples: int = RESAMPLES) -> list[Interval]:
    """Return each number of a law with its 95 % interval, seeds of each size drawn again."""
    groups: dict[tuple[int, int], list[Point]] = {}
    for point in points:
        groups.setdefault((point.weights, point.images), []).append(point)
    generator = np.random.default_rng(0)
    made = []
    for _ in range(resamples):
        drawn = [
            group[i]
            for group in groups.values()
            for i in generator.integers(0, len(group), len(group))
        ]
        try:
            made.append(fit(drawn))
        except UserError:  # these fall with neither
            continue
    low, high = np.percentile(np.array(made), [2.5, 97.5], axis=0) if made else (law, law)
    return [Interval(*each) for each in zip(law, map(float, low), map(float, high), strict=True)]


def points_of(cells: Sequence[Cell], figure: str) -> list[Point]:
    """Return the finished cells' losses. Raises `UserError` where a sweep is of something else."""
    points = []
    for cell in cells:
        changes, result = cell.variant.changes, cell.result()
        if SIZE not in changes or COUNT not in changes:
            raise UserError(f"variant {cell.variant.name}: sweep {SIZE} and {COUNT}")
        if result["status"] == DONE:
            if figure not in result["figures"]:
                raise UserError(f"{cell.name} has not measured {figure}")
            loss = result["figures"][figure]
            points.append(Point(block_weights(cell.model), changes[COUNT], cell.seed, loss))
    if not points:
        raise UserError("no cell is finished: run python -m experiments.run first")
    return points


def block_weights(model: Path) -> int:
    """Return the number of weights in the blocks of a text-to-image model's transformer."""
    with safe_open(model / "model.safetensors", "pt") as file:
        return sum(
            math.prod(file.get_slice(name).get_shape())
            for name in file.keys()  # noqa: SIM118  # it is no mapping
            if name.startswith("blocks.")
        )


def report(points: Sequence[Point], law: Law, figure: str, resamples: int = RESAMPLES) -> str:
    """Return the law and its residuals in Markdown."""
    names = ("E", "A", "a", "B", "b")
    lines = [f"L(N, D) = E + A / N^a + B / D^b, of {figure}, {len(points)} trainings", ""]
    lines += ["| | value | 95 % |", "|---|---|---|"]
    for name, each in zip(names, intervals(points, law, resamples), strict=True):
        lines.append(f"| {name} | {each.value:.4g} | [{each.low:.4g}, {each.high:.4g}] |")
    lines += ["", "| weights of the blocks | images | measured, mean | by the law |"]
    lines.append("|---|---|---|---|")
    for weights, images in sorted({(point.weights, point.images) for point in points}):
        losses = [p.loss for p in points if (p.weights, p.images) == (weights, images)]
        told = law(np.array(weights, float), np.array(images, float))
        lines.append(f"| {weights:,} | {images:,} | {np.mean(losses):.4f} | {told:.4f} |")
    return "\n".join(lines) + "\n"


def draw(points: Sequence[Point], law: Law, figure: str, out: Path) -> None:
    """Write losses over images as dots and the law as lines, a colour for each size of model."""
    drawing = Figure((5.2, 3.6), layout="constrained")
    axes = drawing.add_subplot()
    images = np.array([point.images for point in points], float)
    line = np.geomspace(images.min(), images.max(), 60)
    for number, weights in enumerate(sorted({point.weights for point in points})):
        own = [point for point in points if point.weights == weights]
        axes.plot([p.images for p in own], [p.loss for p in own], "o", color=f"C{number}", ms=4)
        label = f"{weights:,} weights"
        axes.plot(line, law(np.array(weights, float), line), color=f"C{number}", label=label)
    axes.set(xscale="log", yscale="log", xlabel="training images", ylabel=figure)
    axes.grid(alpha=0.3, which="both")
    axes.legend(fontsize=8)
    write_file(out, lambda new: drawing.savefig(new, format="png", dpi=110), sync=False)


@command
def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("ablation", type=Path, help="a file of configs/ablations")
    parser.add_argument("--out", type=Path, help="its folder (default: runs/ablations/NAME)")
    parser.add_argument("--figure", default="held_out_image_loss", help="default: %(default)s")
    options = parser.parse_args()
    path = in_checkout(options.ablation)
    out = options.out or Path("runs/ablations") / path.stem
    points = points_of(plan_cells(read_ablation(path), out, 1, dry=True), options.figure)
    law = fit(points)
    text = report(points, law, options.figure)
    write_text(out / "power-law.md", text)
    draw(points, law, options.figure, out / "power-law.png")
    print(text, end="")


if __name__ == "__main__":
    raise SystemExit(main())
