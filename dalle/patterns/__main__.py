"""Draw every pattern: `python -m dalle.patterns [docs]` writes patterns.md and patterns/*.png."""

import argparse
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
from matplotlib import pyplot as plt

from dalle.patterns import PATTERNS, make_pattern
from dalle.patterns.draw import PAPER, SMALL, SMALL_OPTIONS, page, seen

# Off the middle, so that the wrap-around of the paper's 11 x 11 window shows.
QUERY = (20, 28)


def figure(name: str, path: Path) -> None:
    """One pattern's mask on the small stream, and one query on the paper's grid."""
    fig, (left, right) = plt.subplots(1, 2, figsize=(8, 4.2), layout="constrained")
    left.imshow(
        make_pattern(name, SMALL_OPTIONS.get(name)).mask(SMALL).int(), cmap="Blues", vmax=1.4
    )
    for line in (left.axhline, left.axvline):
        line(SMALL.text_inputs - 0.5, color="black", linewidth=0.8)
    ticks = range(0, SMALL.length, SMALL.columns)
    left.set(xticks=ticks, yticks=ticks)
    left.set(title=f"{name}: {SMALL.rows} x {SMALL.columns} codes", xlabel="key", ylabel="query")

    _, grid = seen(PATTERNS[name](), PAPER, *QUERY)
    shown = grid.int()
    shown[QUERY] = 2
    right.imshow(shown, cmap="Blues", vmax=2)
    right.set(title=f"one query, {PAPER.rows} x {PAPER.columns}", xlabel="column", ylabel="row")
    fig.savefig(path, dpi=80)
    plt.close(fig)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("docs", type=Path, nargs="?", default=Path("docs"), help="folder to write")
    docs = parser.parse_args().docs
    (docs / "patterns").mkdir(parents=True, exist_ok=True)
    (docs / "patterns.md").write_text(page(), encoding="utf-8")
    for name in PATTERNS:
        figure(name, docs / "patterns" / f"{name}.png")


if __name__ == "__main__":
    main()
