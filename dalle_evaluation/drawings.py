"""Drawings beside the figures: worst reconstructions, nats by place, nearest training images."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from dalle_base.common.files import write_file
from dalle_base.common.images import grid, save_image
from dalle_base.common.report import say
from dalle_evaluation.intervals import Values
from dalle_evaluation.nearest import Neighbours, TrainingImages
from dalle_evaluation.reconstructions import image_of, reconstructions
from dvae.tokenizer import ImageTokenizer

SHOWN, COLUMNS = 16, 8
WORST = {"psnr": 1, "lite0_distance": -1}
"""Figures by which the worst images are chosen; 1: the smallest are worst, -1: the largest."""
HEAT_MAP = "nats-by-position.png"


def draw_worst(
    out: Path,
    tokenizer: ImageTokenizer,
    images: Sequence[np.ndarray],
    values: Mapping[str, Values],
) -> None:
    """Draw the worst of uint8 [3, H, W] images over their reconstructions, by each of WORST."""
    for name, sign in WORST.items():
        each = values.get(name)
        if not isinstance(each, np.ndarray):
            continue
        order = (sign * each).argsort(kind="stable")[:SHOWN].tolist()
        originals = [image_of(images[i]) for i in order]
        labels = [f"{name.partition('_')[0]} {each[i]:.2f}" for i in order]
        title = f"the worst of {len(images)} by {name}: originals over their reconstructions"
        below = reconstructions(tokenizer, originals)
        _save(_over(originals, below, labels, title), out / f"worst-{name}.png")


def draw_nearest(
    out: Path, samples: Sequence[Image.Image], found: Neighbours, training: TrainingImages
) -> None:
    """Draw the samples that are nearest to a training image over that image, in each space."""
    for space, near in found.items():
        order = near.distances.argsort(kind="stable")[:SHOWN].tolist()
        below = training.rebuilt([int(near.indices[i]) for i in order])
        labels = [f"{near.distances[i]:.3f}" for i in order]
        title = (
            f"the samples nearest to a training image ({space}), over that image as it is "
            f"decoded; near copies: up to {near.threshold:.3f}"
        )
        _save(
            _over([samples[i] for i in order], below, labels, title), out / f"nearest-{space}.png"
        )


def draw_nats(out: Path, nats: np.ndarray) -> None:
    """Draw nats [R, C] by position of the grid as a heat map."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    sheet = Figure(figsize=(4.6, 4), layout="constrained")
    FigureCanvasAgg(sheet)
    axes = sheet.subplots()
    sheet.colorbar(axes.imshow(nats, cmap="viridis"), ax=axes, label="nats a code")
    axes.set(title=f"held-out image loss by position, mean {nats.mean():.3f}")
    axes.set(xlabel="column", ylabel="row")
    write_file(out / HEAT_MAP, lambda new: sheet.savefig(new, format="png", dpi=150), sync=False)
    say(f"drawn: {out / HEAT_MAP}")


def _over(
    above: Sequence[Image.Image], below: Sequence[Image.Image], labels: Sequence[str], title: str
) -> Image.Image:
    """Lay out rows of images over those that belong to them; only the latter have labels."""
    images: list[Image.Image] = []
    names: list[str] = []
    for first in range(0, len(above), COLUMNS):
        part = slice(first, first + COLUMNS)
        empty = COLUMNS - len(above[part]) if first else 0
        blank = [Image.new("RGB", above[0].size, "white")] * empty
        images += [*above[part], *blank, *below[part], *blank]
        names += [*[""] * (len(above[part]) + empty), *labels[part], *[""] * empty]
    scale = max(1, 96 // above[0].width)
    return grid(images, min(COLUMNS, len(above)), names, title, scale)


def _save(image: Image.Image, path: Path) -> None:
    save_image(image, path)
    say(f"drawn: {path}")
