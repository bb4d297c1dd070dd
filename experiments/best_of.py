r"""The paper's point, with our models: the best of more candidates is better.

python -m experiments.best_of --judge runs/clip-judge/model --record runs/best-of.json \
    --out docs/best-of.png

Shapes: the share of scenes that the checker finds right in everything, for the best of 1, 4, 16 and
64 candidates by the reranker's score, by the transformer's own log-likelihood, and by the checker
itself, which no choice can beat. Emoji: how often an image finds its own caption among those held
out. Who finds is a dual encoder that did not choose, trained apart (`--judge`); the reranker's own
verdict stands beside it, and flatters.
"""

import argparse
import json
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from matplotlib.figure import Figure
from torch import Tensor
from tqdm import tqdm

from dalle.checkpoint import load_text_to_image
from dalle.text_to_image import Samples, TextToImage
from dalle_base.common.errors import command
from dalle_base.common.report import write_json
from dalle_base.data.shapes import check, described_scene
from dalle_base.data.sources import open_sources, read_data_config
from dalle_base.data.sources.base import captioned
from dual_encoder.checkpoint import load_dual_encoder
from dual_encoder.metrics import ranks
from dual_encoder.ranker import Ranker

COUNTS = (1, 4, 16, 64)
"""Candidates to choose from."""


def sample(model: TextToImage, captions: Sequence[str], name: str) -> list[Samples]:
    """Return each caption's candidates."""
    bar = tqdm(captions, name, dynamic_ncols=True)
    return [model.generate(caption, candidates=COUNTS[-1], seed=1) for caption in bar]


def best_of(scores: Tensor) -> dict[int, Tensor]:
    """Return the candidate with the best score among the first 1, 4, ...: of [captions, 64]."""
    return {count: scores[:, :count].argmax(dim=1) for count in COUNTS}


def on_shapes(captions: int) -> dict[str, list[float]]:
    """Return the share of exact scenes for each count, by who chose."""
    model = load_text_to_image("models/shapes")
    texts = [described_scene("test", 1, i)[1] for i in range(captions)]
    samples = sample(model, texts, "shapes")
    exact = torch.tensor(
        [
            [check(image, text).exact for image in some.images]
            for some, text in zip(samples, texts, strict=True)
        ]
    ).double()
    choices = {
        "reranker": torch.stack([model.rank(some) for some in samples]),
        "log-likelihood": torch.stack([some.log_likelihood for some in samples]),
        "any right": exact,
    }
    return {
        name: [exact.gather(1, best[:, None]).mean().item() for best in best_of(scores).values()]
        for name, scores in choices.items()
    }


def on_emoji(captions: int, judge: Ranker) -> dict[str, list[float]]:
    """Return how chosen images find their captions, for each count, by who judges."""
    model = load_text_to_image("models/emoji")
    assert model.reranker
    path = "data/emoji/held_out_pairs.parquet"
    data = read_data_config({"source": "datasets", "path": path, "held_out_share": 0}, path)
    source = captioned(open_sources(data)[0])
    every = list(dict.fromkeys(source.record(i).caption or "" for i in range(len(source))))
    texts = every[:: max(1, len(every) // captions)][:captions]
    samples = sample(model, texts, "emoji")
    best = best_of(torch.stack([model.rank(some) for some in samples]))
    right = torch.tensor([[text == caption for caption in every] for text in texts])
    figures: dict[str, list[float]] = {}
    for name, ranker in (("judge", judge), ("reranker itself", model.reranker)):
        features = ranker.text_features(every)
        for k in (1, 10):
            figures[f"{name}, recall@{k}"] = []
        figures[f"{name}, median rank"] = []
        for chosen in best.values():
            images = [some.images[i] for some, i in zip(samples, chosen.tolist(), strict=True)]
            found = ranks(ranker.image_features(images) @ features.T, right).double()
            for k in (1, 10):
                figures[f"{name}, recall@{k}"].append((found <= k).double().mean().item())
            figures[f"{name}, median rank"].append(found.quantile(0.5).item())
    return figures


def plot(shapes: dict[str, list[float]], emoji: dict[str, list[float]], out: Path) -> None:
    """Write both as one image."""
    figure = Figure(figsize=(9, 3.4), layout="constrained")
    for axes, figures, title, keep in (
        (figure.add_subplot(1, 2, 1), shapes, "shapes: all of the scene right", lambda _: True),
        (figure.add_subplot(1, 2, 2), emoji, "emoji: finds its caption", _recall),
    ):
        shown: Callable[[str], bool] = keep
        for name, values in figures.items():
            if shown(name):
                style = "--" if name in ("any right", "log-likelihood") or "itself" in name else "-"
                axes.plot(COUNTS, values, style, marker="o", label=name)
        axes.set_xscale("log", base=4)
        axes.set_xticks(COUNTS, [str(count) for count in COUNTS])
        axes.set_ylim(0, 1.02)
        axes.set_xlabel("the best of so many candidates")
        axes.set_title(title, fontsize=10)
        axes.grid(alpha=0.3)
        axes.legend(fontsize=8)
    out.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(out, dpi=110)


def _recall(name: str) -> bool:
    return "recall" in name


@command
def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--judge", type=Path, required=True, help="a dual encoder trained apart")
    parser.add_argument("--out", type=Path, required=True, help="image to write")
    parser.add_argument("--captions", type=int, default=200, help="captions of each corpus")
    parser.add_argument("--record", type=Path, required=True, help="JSON; what it has stays")
    parser.add_argument("--only", choices=("shapes", "emoji"), help="only one corpus, no plot")
    options = parser.parse_args()
    record = json.loads(options.record.read_text("utf-8")) if options.record.exists() else {}
    if options.only != "emoji" and "shapes" not in record:
        record["shapes"] = on_shapes(options.captions)
    if options.only != "shapes" and "emoji" not in record:
        record["emoji"] = on_emoji(options.captions, load_dual_encoder(options.judge))
    write_json(options.record, record)
    if options.only:
        return
    shapes, emoji = record["shapes"], record["emoji"]
    plot(shapes, emoji, options.out)
    print(f"{'the best of':<30}" + "".join(f"{count:>8}" for count in COUNTS))
    for name, values in [*shapes.items(), *emoji.items()]:
        print(f"{name:<30}" + "".join(f"{value:>8.3f}" for value in values))


if __name__ == "__main__":
    raise SystemExit(main())
