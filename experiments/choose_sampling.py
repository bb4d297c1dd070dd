r"""The temperature, guidance and truncation whose samples the judge finds best.

python -m experiments.choose_sampling models/emoji --config configs/dalle/emoji.yaml --judge 200 \
    --temperature 0.5 0.7 1 --guidance 1 2 4 --record runs/choose-sampling.json \
    --out runs/choose-sampling.png

Every setting samples the same captions with the same random numbers. The best is the one with the
highest mean of top-1 over training captions and held-out pairs. With 200 captions each figure is
good to some three percentage points: take a setting in the middle of what is good, and measure it
with `evaluate.py --judge` and another --seed.
"""

import argparse
import json
from collections.abc import Sequence
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from matplotlib.figure import Figure

from dalle.checkpoint import load_text_to_image
from dalle.config import Sampling
from dalle.generate import check_sampling
from dalle.text_to_image import TextToImage
from dalle_base.common.arguments import add_device
from dalle_base.common.device import choose_device
from dalle_base.common.errors import command
from dalle_base.common.files import prepare_file
from dalle_base.common.lite0 import Lite0
from dalle_base.common.report import say, table, write_json
from dalle_base.data.sources import data_of, open_sources
from dalle_evaluation.judge import Verdict
from dalle_evaluation.judge_options import Judging, add_artists
from dalle_evaluation.judge_report import cell
from dalle_evaluation.judged_cases import KNOWN, PAIRS, open_exam
from dalle_evaluation.judged_models import ONE, Judge, judge_samples, sample_cases

TOGETHER = 100
"""Images sampled at a time."""
AXES = ("temperature", "guidance_scale", "top_p", "top_k")


class Outcome(NamedTuple):
    """A setting and what the judge says of its samples."""

    sampling: Sampling
    verdicts: dict[str, Verdict]
    """By group."""

    @property
    def score(self) -> float:
        """What the best is chosen by: the mean of top-1 over groups."""
        return float(np.mean([verdict.top_1.value for verdict in self.verdicts.values()]))


def parse_arguments(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("model", type=Path, help="folder of a text-to-image model")
    parser.add_argument("--config", type=Path, required=True, help="training config with the data")
    parser.add_argument("--judge", type=int, default=200, metavar="N", help="concepts in a group")
    add_artists(parser)
    several: dict[str, Any] = {"nargs": "+", "metavar": "VALUE"}
    parser.add_argument("--temperature", type=float, default=[0.5, 0.7, 1.0], **several)
    parser.add_argument(
        "--guidance", type=float, default=[1.0, 2.0, 4.0], dest="guidance_scale", **several
    )
    parser.add_argument("--top-p", type=float, default=[1.0], **several)
    parser.add_argument("--top-k", type=int, default=[0], **several)
    parser.add_argument("--seed", type=int, default=0, help="seed of the first caption")
    parser.add_argument("--record", type=Path, required=True, help="JSON to write")
    parser.add_argument("--out", type=Path, required=True, help="image to write")
    add_device(parser)
    return parser.parse_args(argv)


def settings(options: argparse.Namespace, model: TextToImage) -> list[Sampling]:
    """Return the grid of settings. Raises `UserError` for the first that makes no sense."""
    every = [
        Sampling(seed=options.seed, batch_size=TOGETHER, **dict(zip(AXES, values, strict=True)))
        for values in product(*(getattr(options, axis) for axis in AXES))
    ]
    for each in every:
        check_sampling(model.transformer, each)
    return every


def judged(judge: Judge, model: TextToImage, sampling: Sampling) -> Outcome:
    """Sample both groups in one way and let the judge look."""
    verdicts = {}
    for group in (KNOWN, PAIRS):
        if cases := judge.exam.groups.get(group):
            samples = sample_cases(model, cases, sampling, group)
            verdicts[group] = judge_samples(judge, group, model, samples)[ONE]
    return Outcome(sampling, verdicts)


def shown(outcomes: Sequence[Outcome]) -> str:
    """All settings as a table, in %, the best first."""
    groups = list(outcomes[0].verdicts)
    heading = [f"{name.replace('_', ' ')} top-1 [95 %] / top-5" for name in groups]
    rows = [[*AXES, "mean top-1", *heading]]
    for outcome in sorted(outcomes, key=lambda each: -each.score):
        values = [f"{getattr(outcome.sampling, axis):g}" for axis in AXES]
        cells = map(cell, outcome.verdicts.values())
        rows.append([*values, f"{100 * outcome.score:.1f}", *cells])
    return table(rows)


def record(options: argparse.Namespace, outcomes: Sequence[Outcome]) -> dict[str, Any]:
    """Return what is written as JSON."""
    best = max(outcomes, key=lambda each: each.score)
    return {
        "model": str(options.model),
        "concepts": options.judge,
        "seed": options.seed,
        "best": {axis: getattr(best.sampling, axis) for axis in AXES},
        "settings": [
            {axis: getattr(outcome.sampling, axis) for axis in AXES}
            | {"score": outcome.score}
            | {
                group: {"top_1": verdict.top_1._asdict(), "top_5": verdict.top_5._asdict()}
                for group, verdict in outcome.verdicts.items()
            }
            for outcome in outcomes
        ],
    }


def plot(outcomes: Sequence[Outcome], out: Path) -> None:
    """Write heat maps of top-1: temperatures by guidance, a map for each group and truncation."""
    groups = list(outcomes[0].verdicts)
    axes = [sorted({getattr(each.sampling, axis) for each in outcomes}) for axis in AXES]
    temperatures, scales, *truncations = axes
    cut = [*product(*truncations)]
    size = (1.5 + 1.1 * len(scales) * len(cut), 1.2 + 0.7 * len(temperatures) * len(groups))
    figure = Figure(figsize=(max(5.0, size[0]), max(3.0, size[1])), layout="constrained")
    panels = figure.subplots(len(groups), len(cut), squeeze=False)
    highest = max(v.top_1.value for each in outcomes for v in each.verdicts.values())
    for (row, group), (column, (top_p, top_k)) in product(enumerate(groups), enumerate(cut)):
        found = np.zeros((len(temperatures), len(scales)))
        for outcome in outcomes:
            how = outcome.sampling
            if (how.top_p, how.top_k) == (top_p, top_k):
                place = temperatures.index(how.temperature), scales.index(how.guidance_scale)
                found[place] = outcome.verdicts[group].top_1.value
        panel = panels[row][column]
        panel.imshow(found, vmin=0, vmax=highest or 1, cmap="Blues", aspect="auto")
        for (i, j), value in np.ndenumerate(found):
            colour = "white" if value > 0.6 * highest else "black"
            panel.text(j, i, f"{100 * value:.1f}", ha="center", va="center", color=colour)
        panel.set_xticks(range(len(scales)), [f"{each:g}" for each in scales])
        panel.set_yticks(range(len(temperatures)), [f"{each:g}" for each in temperatures])
        panel.set_xlabel("guidance")
        panel.set_ylabel("temperature")
        panel.set_title(
            f"{group.replace('_', ' ')}, top-1 in % (top-p {top_p:g}, top-k {top_k})", fontsize=8
        )
    figure.savefig(out, dpi=110)


@command
def main() -> None:
    options = parse_arguments()
    judging = Judging(
        concepts=options.judge,
        artist=options.judge_artist,
        reference=options.judge_reference,
        held_out_concepts=options.held_out_concepts,
        nearest=False,
    )
    for path in (options.record, options.out):
        prepare_file(path)
    device = choose_device(options.device)
    network = Lite0().to(device)
    model = load_text_to_image(options.model, device=device, rerank=False)
    every = settings(options, model)
    data = data_of(options.config)
    exam = open_exam(data, open_sources(data), judging, model.tokenizer.image_size)
    judge = Judge(network, exam, judging, device)
    outcomes: list[Outcome] = []
    for number, sampling in enumerate(every, 1):
        values = ", ".join(f"{axis} {getattr(sampling, axis):g}" for axis in AXES)
        say(f"{number} of {len(every)}: {values}")
        outcomes.append(judged(judge, model, sampling))
        write_json(options.record, record(options, outcomes))  # nothing is lost by a Ctrl-C
    plot(outcomes, options.out)
    print(shown(outcomes))
    print("best: " + json.dumps(record(options, outcomes)["best"]))


if __name__ == "__main__":
    raise SystemExit(main())
