"""The same captions by every system of the family, beside the real images.

python -m experiments.family_sheet --config configs/dalle/emoji-modern.yaml \\
    --unclip models/emoji-unclip --out docs/family.png

A row for each system: DALL-E 1 (the best of 8), that image guided by CLIP for 50 steps, DALL-E 2
(the best of 8), and the real image of the caption. Captions are the first of the judge's known
concepts, and nothing is picked.
"""

import argparse
from collections.abc import Iterator
from pathlib import Path

from PIL import Image
from tqdm import tqdm

from dalle.checkpoint import load_text_to_image
from dalle.text_to_image import TextToImage
from dalle_base.common.errors import UserError, command
from dalle_base.common.images import grid, save_image
from dalle_base.data.sources import data_of, open_sources
from dalle_evaluation.judge_options import Judging
from dalle_evaluation.judged_cases import Case, open_exam
from dalle_guided.config import GuidanceConfig
from dalle_guided.drawing import guide
from dalle_guided.objective import Target
from dalle_guided.prompts import Prompt
from dalle_guided.starts import sampled_codes
from unclip.model import Unclip, load_unclip

SYSTEMS = ("DALL-E 1", "guided by CLIP", "DALL-E 2", "real")


def images_of(
    model: TextToImage, other: Unclip, case: Case, options: argparse.Namespace
) -> Iterator[Image.Image]:
    """Yield a caption's image by each of SYSTEMS."""
    assert model.reranker
    start = sampled_codes(model, case.caption, options.best_of, options.seed)
    yield model.images(start.flatten(1))[0]
    target = Target(model.reranker, [Prompt(case.caption)])
    way = guide(model.tokenizer, target, start, GuidanceConfig(steps=options.steps), options.seed)
    *_, last = way
    yield last.image
    decoded = other.generate(case.caption, options.best_of, options.seed)
    yield decoded.images[int(other.rank(decoded).argmax())]
    yield case.image


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--model", type=Path, default=Path("models/emoji"), help="DALL-E 1")
    parser.add_argument("--unclip", type=Path, required=True, help="DALL-E 2")
    parser.add_argument("--config", type=Path, required=True, help="training config with the data")
    parser.add_argument("--captions", type=int, default=6, help="known concepts to draw")
    parser.add_argument("--best-of", type=int, default=8, help="candidates of both DALL-Es")
    parser.add_argument("--steps", type=int, default=50, help="of guiding")
    parser.add_argument("--seed", type=int, default=0, help="of everything")
    parser.add_argument("--out", type=Path, required=True, help="image to write")
    return parser.parse_args()


@command
def main() -> None:
    options = parse_arguments()
    model, other = load_text_to_image(options.model), load_unclip(options.unclip)
    if model.reranker is None:
        raise UserError(f"{options.model} has no reranker to guide by")
    data = data_of(options.config)
    judging = Judging(concepts=options.captions, nearest=False)
    exam = open_exam(data, open_sources(data), judging, model.tokenizer.image_size)
    cases = next(iter(exam.groups.values()))
    columns = [
        list(images_of(model, other, case, options))
        for case in tqdm(cases, "captions", dynamic_ncols=True)
    ]
    rows = [list(row) for row in zip(*columns, strict=True)]
    labels = [
        system if column == 0 else case.caption.rsplit(",", 1)[0][:20] if row == 0 else ""
        for row, system in enumerate(SYSTEMS)
        for column, case in enumerate(cases)
    ]
    save_image(
        grid([image for row in rows for image in row], len(cases), labels, scale=2), options.out
    )


if __name__ == "__main__":
    raise SystemExit(main())
