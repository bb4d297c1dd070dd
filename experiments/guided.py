"""Does guiding make better images, or only images that its own encoder likes better?

python -m experiments.guided --model models/emoji --config configs/dalle/emoji-modern.yaml \
    --out runs/guided

Captions of the judge's known concepts, each drawn in several ways: guided from random codes, the
best of 16 sampled by the transformer, and that one guided for some steps more. Who judges took no
part: a network trained elsewhere, and the second encoder, if one is named. The guiding encoder's
own score stands beside them: where that rises and the others fall, guiding has fooled it.

What has been drawn stays in the folder: the same command goes on.
"""

import argparse
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from tqdm import tqdm

from dalle.checkpoint import load_text_to_image
from dalle.text_to_image import TextToImage
from dalle_base.common.errors import UserError, command
from dalle_base.common.files import prepare_folder
from dalle_base.common.images import grid, save_image
from dalle_base.common.lite0 import Lite0
from dalle_base.common.report import write_json
from dalle_base.data.sources import data_of, open_sources
from dalle_evaluation.intervals import Interval, mean_interval
from dalle_evaluation.judge import found_ranks
from dalle_evaluation.judge_options import Judging
from dalle_evaluation.judged_cases import Case, open_exam
from dalle_evaluation.judged_models import Judge
from dalle_guided.config import CutoutsConfig, GuidanceConfig
from dalle_guided.drawing import draw, guide
from dalle_guided.objective import Target
from dalle_guided.prompts import Prompt
from dalle_guided.starts import random_codes, sampled_codes
from dual_encoder.checkpoint import load_dual_encoder
from dual_encoder.ranker import Ranker

GUIDED, SAMPLED, REAL = "guided from noise", "best of 16", "real images"
AFTER = (25, 100)
"""Steps by which the best of 16 is guided."""
SHOWN = 8
RESAMPLES = 1000


def then_guided(steps: int) -> str:
    """Return the name of what is sampled and then guided."""
    return f"best of 16, guided {steps} steps"


WAYS = (GUIDED, SAMPLED, *map(then_guided, AFTER))


def images_of(
    model: TextToImage, case: Case, config: GuidanceConfig, seed: int
) -> Iterator[tuple[str, Image.Image]]:
    """Yield an image of a caption for each of WAYS."""
    assert model.reranker
    target = Target(model.reranker, [Prompt(case.caption)])
    noise = random_codes(model.tokenizer, (model.tokenizer.rows, model.tokenizer.columns), seed)
    way = guide(model.tokenizer, target, noise, config, seed)
    yield GUIDED, draw(way, config.patience).image
    start = sampled_codes(model, case.caption, 16, seed)
    (image,) = model.images(start.flatten(1))
    yield SAMPLED, image
    further = replace(config, steps=max(AFTER), measure_every=min(AFTER))
    for measured in guide(model.tokenizer, target, start, further, seed):
        if measured.step in AFTER:
            yield then_guided(measured.step), measured.image


def draw_all(
    model: TextToImage, cases: Sequence[Case], config: GuidanceConfig, folder: Path
) -> dict[str, list[Image.Image]]:
    """Return the images of all captions by way; those that the folder has are not drawn again."""
    found: dict[str, list[Image.Image]] = {way: [] for way in WAYS}
    for number, case in enumerate(tqdm(cases, "captions", dynamic_ncols=True)):
        paths = {way: folder / "images" / f"{number:03d}-{i}.png" for i, way in enumerate(WAYS)}
        if not all(path.exists() for path in paths.values()):
            for way, image in images_of(model, case, config, number):
                save_image(image, paths[way])
        for way, path in paths.items():
            with Image.open(path) as image:
                found[way].append(image.convert("RGB"))
    return found


def cosines(encoder: Ranker, images: Sequence[Image.Image], cases: Sequence[Case]) -> np.ndarray:
    """Return the cosine of each image and its caption, [n]."""
    captions = encoder.text_features([case.caption for case in cases])
    return (encoder.image_features(images) * captions).sum(dim=1).double().numpy()


def figures(
    judge: Judge, group: str, found: dict[str, list[Image.Image]], encoders: dict[str, Ranker]
) -> dict[str, dict[str, Interval]]:
    """Return for each way what the judge and the encoders find, and the differences of what is
    guided from what is sampled, caption by caption.
    """
    cases = judge.exam.groups[group]
    values: dict[str, dict[str, np.ndarray]] = {}
    for way, images in found.items():
        places = found_ranks(judge.features(images), judge.references[group])
        values[way] = {f"judge_top{k}": (places <= k).double().numpy() for k in (1, 5)}
        for name, encoder in encoders.items():
            values[way][name] = cosines(encoder, images, cases)
    table = {
        way: {name: mean_interval(value, RESAMPLES) for name, value in measured.items()}
        for way, measured in values.items()
    }
    for way, measured in values.items():
        if way != SAMPLED:
            table[f"{way} - {SAMPLED}"] = {
                name: mean_interval(value - values[SAMPLED][name], RESAMPLES)
                for name, value in measured.items()
            }
    return table


def sheet(found: dict[str, list[Image.Image]], cases: Sequence[Case]) -> Image.Image:
    """Return a grid: a row for each way, a column for each of the first captions."""
    shown = [image for images in found.values() for image in images[:SHOWN]]
    labels = [case.caption[:18] for case in cases[:SHOWN]]
    count = len(labels)
    rows = [name[:18] for name in found for _ in range(count)]
    names = [
        labels[i] if i < count else rows[i] if i % count == 0 else "" for i in range(len(shown))
    ]
    return grid(shown, count, names, "", scale=2)


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--model", type=Path, default=Path("models/emoji"), help="model folder")
    parser.add_argument("--config", type=Path, required=True, help="training config with the data")
    parser.add_argument("--second", type=Path, help="a dual encoder that took no part")
    parser.add_argument("--captions", type=int, default=100, help="known concepts to draw")
    parser.add_argument("--steps", type=int, default=200, help="of guiding from noise")
    parser.add_argument("--cutouts", type=int, default=16, help="in each step")
    parser.add_argument("--out", type=Path, required=True, help="folder to write")
    return parser.parse_args()


@command
def main() -> None:
    options = parse_arguments()
    model = load_text_to_image(options.model)
    if model.reranker is None:
        raise UserError(f"{options.model} has no reranker to guide by")
    folder = prepare_folder(options.out)
    data = data_of(options.config)
    judging = Judging(concepts=options.captions, nearest=False)
    exam = open_exam(data, open_sources(data), judging, model.tokenizer.image_size)
    judge = Judge(Lite0(), exam, judging)
    group, cases = next(iter(exam.groups.items()))
    config = GuidanceConfig(steps=options.steps, cutouts=CutoutsConfig(count=options.cutouts))
    found = draw_all(model, cases, config, folder)
    found[REAL] = [case.image for case in cases]
    encoders = {"guiding_cosine": model.reranker}
    if options.second:
        encoders["second_cosine"] = load_dual_encoder(options.second)
    table = figures(judge, group, found, encoders)
    save_image(sheet(found, cases), folder / "sheet.png")
    record: dict[str, Any] = {"captions": len(cases), "steps": options.steps}
    record["ways"] = {
        way: {name: [each.value, each.low, each.high] for name, each in row.items()}
        for way, row in table.items()
    }
    write_json(folder / "guided.json", record)
    for way, row in table.items():
        shown = "  ".join(f"{n} {v.value:.3f} [{v.low:.3f}, {v.high:.3f}]" for n, v in row.items())
        print(f"{way:<44}{shown}")


if __name__ == "__main__":
    raise SystemExit(main())
