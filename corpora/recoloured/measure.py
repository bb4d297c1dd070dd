"""Does a model draw things in colours that it has never seen them in?

python -m corpora.recoloured.measure --model models/emoji --data data/recoloured --out runs/colours

Captions of held-out combinations ("blue automobile, noto style"), one candidate each. What is
counted: images most of whose coloured area has the colour that was asked for, and images that the
judge, to whom everything is shown in grey, finds nearest to the right thing among those of all
captions. The same is counted of the real images.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from matplotlib.colors import rgb_to_hsv
from PIL import Image

from corpora.emoji.splits import fraction
from corpora.recoloured.build import HELD_OUT_COLOURS
from corpora.recoloured.hues import LEAST_SATURATION, LEAST_VALUE, TARGETS, apart, hsv_of
from dalle.checkpoint import load_text_to_image
from dalle.request import add_settings, take_settings
from dalle_base.common.errors import UserError, command
from dalle_base.common.files import prepare_folder
from dalle_base.common.images import centre_square, grid, save_image
from dalle_base.common.lite0 import Lite0
from dalle_base.common.opening import open_image
from dalle_base.common.report import write_json
from dalle_evaluation.intervals import Interval, mean_interval
from dalle_evaluation.judge import features, found_ranks

RESAMPLES = 1000
SHOWN = 64


def main_colour(image: Image.Image) -> str:
    """Return which of TARGETS most of an image's coloured area is nearest to; "" for none."""
    hsv = rgb_to_hsv(np.asarray(image.convert("RGB"), dtype=np.float64) / 255)
    coloured = (hsv[..., 1] > LEAST_SATURATION) & (hsv[..., 2] > LEAST_VALUE)
    hue, saturation, value = hsv[coloured].T
    if not len(hue):
        return ""
    away = np.stack([apart(360 * hue, hsv_of(target)[0]) for target in TARGETS])
    weights = [(saturation * value)[away.argmin(axis=0) == i].sum() for i in range(len(TARGETS))]
    return TARGETS[int(np.argmax(weights))]


def read_cases(folder: Path, count: int, side: int) -> list[dict[str, Any]]:
    """Return captions with colour and real image, one of each combination. Raises `UserError`."""
    file = folder / f"{HELD_OUT_COLOURS}.parquet"
    if not file.is_file():
        raise UserError(f"{file} is missing: python -m corpora.recoloured --out {folder}")
    rows = sorted(
        pq.read_table(file).to_pylist(),
        key=lambda row: fraction(f"{row['caption']}{row['artist']}"),
    )
    first = {(row["concept"], row["colour"]): row for row in reversed(rows)}
    return [
        {
            "caption": f"{row['caption']}, {row['artist']} style",
            "colour": row["colour"],
            "image": centre_square(
                open_image(row["image"]["bytes"]), side, Image.Resampling.BICUBIC
            ),
        }
        for row in list(first.values())[:count]
    ]


def figures(
    network: Lite0, images: Sequence[Image.Image], cases: Sequence[dict[str, Any]]
) -> dict[str, Interval]:
    """Return the shares of right colours and right things."""
    right = [main_colour(i) == case["colour"] for i, case in zip(images, cases, strict=True)]
    shown, wanted = (
        features(network, [each.convert("L").convert("RGB") for each in some])
        for some in (images, [case["image"] for case in cases])
    )
    places = found_ranks(shown, wanted)
    return {
        "colour": mean_interval(np.array(right, dtype=float), RESAMPLES),
        "thing_top_1": mean_interval((places <= 1).double().numpy(), RESAMPLES),
        "thing_top_5": mean_interval((places <= 5).double().numpy(), RESAMPLES),
    }


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--model", type=Path, default=Path("models/emoji"), help="model folder")
    parser.add_argument("--data", type=Path, default=Path("data/recoloured"), help="the corpus")
    parser.add_argument("--captions", type=int, default=200, help="held-out combinations")
    parser.add_argument("--seed", type=int, default=0, help="of the samples")
    parser.add_argument("--out", type=Path, required=True, help="folder to write")
    add_settings(parser)
    return parser.parse_args()


@command
def main() -> None:
    options = parse_arguments()
    folder = prepare_folder(options.out)
    model = load_text_to_image(options.model)
    sampling = model.sampling.sampling(seed=options.seed, **take_settings(vars(options)))
    cases = read_cases(options.data, options.captions, model.tokenizer.image_size)
    network = Lite0()
    drawn = model.generate([case["caption"] for case in cases], sampling).images
    real = [case["image"] for case in cases]
    rebuilt = [
        image
        for first in range(0, len(real), 64)
        for image in model.images(model.codes(real[first : first + 64]))
    ]
    table = {
        name: figures(network, images, cases)
        for name, images in (("sampled", drawn), ("reconstructions", rebuilt), ("real", real))
    }
    record = {
        name: {key: [each.value, each.low, each.high] for key, each in row.items()}
        for name, row in table.items()
    }
    write_json(folder / "colours.json", {"captions": len(cases), "figures": record})
    labels = [case["caption"].rsplit(",", 1)[0][:11] for case in cases[:SHOWN]]
    save_image(grid(drawn[:SHOWN], 16, labels), folder / "sheet.png")
    for name, row in table.items():
        shown = "  ".join(f"{n} {v.value:.3f} [{v.low:.3f}, {v.high:.3f}]" for n, v in row.items())
        print(f"{name:<16}{shown}")


if __name__ == "__main__":
    raise SystemExit(main())
