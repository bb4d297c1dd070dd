"""From a caption to pictures: draw candidates, write each of them, a labelled grid and a JSON."""

import argparse
import json
import math
import re
import sys
from collections.abc import Sequence
from pathlib import Path

from torch import Tensor
from tqdm import tqdm

from dalle.checkpoint import TextToImage, load_text_to_image
from dalle.generate import DRAW, Generated, fitting_batch, generate
from training.errors import UserError, command
from training.grids import grid
from training.pictures import (
    UnreadablePictureError,
    centre_square,
    open_picture,
    to_array,
    to_tensor,
)

GUIDANCE = 4.0
"""Guidance of models that were trained for it: docs/experiments.md shows what it does."""


def parse_arguments(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--text", required=True, help="the caption")
    parser.add_argument("--model", type=Path, default=Path("models/emoji"), help="model folder")
    parser.add_argument("--candidates", type=int, default=8, help="pictures to draw")
    parser.add_argument("--temperature", type=float, default=1.0, help="1 is the paper's")
    parser.add_argument("--top-k", type=int, default=0, help="keep the k likeliest codes; 0: all")
    parser.add_argument("--top-p", type=float, default=1.0, help="keep the likeliest share p")
    parser.add_argument(
        "--guidance",
        type=float,
        help="above 1 follows the caption more closely (default: 4 where the model was trained for "
        "it, else 1, the paper's)",
    )
    parser.add_argument("--seed", type=int, default=0, help="candidate k of a seed is one picture")
    parser.add_argument(
        "--memory", type=float, default=4.0, help="GB for caches; more candidates go in batches"
    )
    parser.add_argument(
        "--dry-run", action="store_true", help="say how much memory drawing takes, and draw nothing"
    )
    parser.add_argument("--out", type=Path, default=Path("out"), help="folder to write into")
    parser.add_argument("--image", type=Path, help="picture of which a part is kept")
    parser.add_argument("--keep-rows", type=int, help="its top rows of codes (default: half)")
    parser.add_argument(
        "--redraw-from",
        type=int,
        nargs=2,
        metavar=("ROW", "COLUMN"),
        help="instead: keep all of it but the codes from here to the bottom right corner",
    )
    return parser.parse_args(argv)


@command
def main() -> None:
    options = parse_arguments()
    model = load_text_to_image(options.model)
    if options.guidance is None:
        options.guidance = GUIDANCE if model.transformer.config.text_drop else 1.0
    tokens = read_caption(model, options.text)
    given = read_prompt(model, options.image, options.keep_rows, options.redraw_from)
    batch_size = fitting_batch(
        model.transformer, int(options.memory * 1e9), guided=options.guidance != 1
    )
    if options.dry_run:
        print(memory_report(model, options, batch_size))
        return
    folder = make_folder(options.out / slug(options.text))

    with tqdm(desc="drawing codes", unit="step", dynamic_ncols=True) as bar:

        def progress(done: int, total: int) -> None:
            bar.total = total
            bar.update(done - bar.n)

        drawn = generate(
            model.transformer,
            tokens,
            candidates=options.candidates,
            seed=options.seed,
            temperature=options.temperature,
            top_k=options.top_k,
            top_p=options.top_p,
            guidance_scale=options.guidance,
            given=given,
            batch_size=batch_size,
            progress=progress,
        )
    sheet, record = write(folder, options, model, drawn, given)
    print(f"wrote {options.candidates} candidates to {folder}, the grid {sheet} and {record}")


def memory_report(model: TextToImage, options: argparse.Namespace, batch_size: int) -> str:
    """Return in a sentence what the candidates' caches take, and in how many batches."""
    streams = 1 if options.guidance == 1 else 2
    together = min(batch_size, options.candidates)
    caches = model.transformer.cache_bytes(streams, streams * together)
    batches = math.ceil(options.candidates / batch_size)
    return (
        f"{options.candidates} candidates in {batches} batch{'es' if batches > 1 else ''} of up to "
        f"{together}: {caches / 1e6:.1f} MB of caches, "
        f"{model.transformer.cache_bytes(streams, 0) / 1e6:.2f} MB of it the caption's"
    )


def read_caption(model: TextToImage, caption: str) -> Tensor:
    """Return a caption's tokens [1, T]; warn where it is cut. Raises `UserError` if it is empty."""
    length = model.transformer.config.text_length
    tokens = model.text.encode([caption], length)
    if cut := model.text.cut(caption, length):
        print(f"warning: {cut}", file=sys.stderr)
    return tokens


def read_prompt(
    model: TextToImage,
    path: Path | None,
    keep_rows: int | None = None,
    redraw_from: Sequence[int] | None = None,
) -> Tensor | None:
    """Return a picture's codes [RC] with `DRAW` for those to draw, or None without a picture."""
    tokenizer = model.tokenizer
    if path is None:
        if keep_rows is not None or redraw_from is not None:
            raise UserError("--keep-rows and --redraw-from need --image, the picture to keep of")
        return None
    if keep_rows is not None and redraw_from is not None:
        raise UserError("--keep-rows and --redraw-from exclude each other: give one")
    row, column = redraw_from or (tokenizer.rows // 2 if keep_rows is None else keep_rows, 0)
    if redraw_from is None and not 1 <= row < tokenizer.rows:
        raise UserError(f"--keep-rows is {row}: write 1 to {tokenizer.rows - 1}")
    if not (0 <= row < tokenizer.rows and 0 <= column < tokenizer.columns) or row + column == 0:
        raise UserError(
            f"--redraw-from is {row} {column}: write a row from 0 to {tokenizer.rows - 1} and a "
            f"column from 0 to {tokenizer.columns - 1}, not both 0"
        )
    try:
        image = open_picture(path, str(path))
    except UnreadablePictureError as error:
        raise UserError(f"--image: not a readable picture: {error}") from None
    pixels = to_tensor([to_array(centre_square(image, tokenizer.image_size))])
    codes = tokenizer.encode(pixels)[0]
    codes[row:, column:] = DRAW
    return codes.flatten()


def make_folder(folder: Path) -> Path:
    """Make the output folder now, so that no picture is drawn in vain. Raises `UserError`."""
    probe = folder / ".writable"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise UserError(f"cannot write into {folder}: {error.strerror}; set --out") from None
    return folder


def slug(caption: str) -> str:
    """Return a folder name for a caption."""
    return re.sub(r"\W+", "-", caption.lower()).strip("-")[:60] or "caption"


def write(
    folder: Path,
    options: argparse.Namespace,
    model: TextToImage,
    drawn: Generated,
    given: Tensor | None,
) -> tuple[Path, Path]:
    """Write candidates, grid and record; return the paths of the last two."""
    images = model.pictures(drawn.codes)
    likelihoods = drawn.log_likelihood.tolist()
    try:
        names = [f"{options.seed}-{k:03d}.png" for k in range(len(images))]
        for name, image in zip(names, images, strict=True):
            image.save(folder / name)
        labels = [f"#{k}  {value:.0f}" for k, value in enumerate(likelihoods)]
        columns = min(8, len(images))
        grid(images, columns, labels, options.text, scale=2).save(folder / "grid.png")
        record = {
            "text": options.text,
            "model": str(options.model),
            "seed": options.seed,
            "temperature": options.temperature,
            "top_k": options.top_k,
            "top_p": options.top_p,
            "guidance": options.guidance,
            "image": str(options.image) if options.image else None,
            "kept_codes": 0 if given is None else int((given != DRAW).sum()),
            "candidates": [
                {"file": name, "candidate": k, "log_likelihood": value, "codes": codes}
                for k, (name, value, codes) in enumerate(
                    zip(names, likelihoods, drawn.codes.tolist(), strict=True)
                )
            ],
        }
        (folder / "samples.json").write_text(json.dumps(record, indent=1), encoding="utf-8")
    except OSError as error:
        raise UserError(f"cannot write into {folder}: {error.strerror}; set --out") from None
    return folder / "grid.png", folder / "samples.json"


if __name__ == "__main__":
    raise SystemExit(main())
