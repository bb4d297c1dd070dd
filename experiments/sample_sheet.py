"""A sheet of samples: the first candidates of each caption, or with --best-of the best ones.

python -m experiments.sample_sheet --model models/emoji --out docs/samples-emoji.png CAPTION ...
python -m experiments.sample_sheet --out sheet.png --candidates 1 --across 8 --scale 2 \\
    @experiments/common_captions.txt

common_captions.txt holds forty captions, fixed before the shipped models were trained. What they
make of them with seed 0 is shown as it is, nothing picked.
"""

import argparse
from pathlib import Path

import torch

from dalle.checkpoint import load_text_to_image
from dalle.request import add_settings, take_settings
from dalle_base.common.errors import command
from dalle_base.common.images import grid, save_image


@command
def main() -> None:
    parser = argparse.ArgumentParser(
        description="Sample the first candidates of some captions.", fromfile_prefix_chars="@"
    )
    parser.add_argument("captions", nargs="+", help="captions; @FILE: its lines")
    parser.add_argument("--model", type=Path, default=Path("models/emoji"), help="model folder")
    parser.add_argument("--out", type=Path, required=True, help="image to write")
    parser.add_argument("--candidates", type=int, default=4, help="images of each caption")
    parser.add_argument("--best-of", type=int, default=0, help="choose them among so many")
    parser.add_argument("--across", type=int, default=2, help="captions in a row")
    parser.add_argument("--seed", type=int, default=0, help="seed of all captions")
    parser.add_argument("--scale", type=int, default=1, help="pixels on a side for each of theirs")
    add_settings(parser)
    options = parser.parse_args()
    model = load_text_to_image(options.model)
    sampling = model.sampling.sampling(
        candidates=max(options.candidates, options.best_of),
        seed=options.seed,
        **take_settings(vars(options)),
    )
    samples = model.generate(options.captions, sampling)
    if options.best_of:
        scores = model.rank(samples, sampling.likelihood_weight).view(len(options.captions), -1)
        best = scores.argsort(dim=1, descending=True)[:, : options.candidates]
        first = torch.arange(len(options.captions))[:, None] * sampling.candidates
        samples = samples.select((best + first).flatten().tolist())
    labels = [
        caption if k == 0 else "" for caption in options.captions for k in range(options.candidates)
    ]
    columns = options.across * options.candidates
    save_image(grid(samples.images, columns, labels, scale=options.scale), options.out)


if __name__ == "__main__":
    raise SystemExit(main())
