"""From a caption to pictures: draw candidates, write each of them, a labelled grid and a JSON."""

import argparse
import math
import sys
from collections.abc import Sequence
from pathlib import Path

from torch import Tensor
from tqdm import tqdm

from dalle.checkpoint import RERANKER, load_text_to_image
from dalle.generate import DRAW, Progress, fitting_batch
from dalle.precision import PRECISIONS
from dalle.record import make_folder, recorded_codes, slug, write, write_preview
from dalle.text_to_image import Drawn, TextToImage, join, select
from dual_encoder.rank import cut as ranker_cut
from training.errors import UserError, command
from training.pictures import UnreadablePictureError, open_picture

PREVIEWED = 16
"""Pictures of a batch that --preview shows."""


def parse_arguments(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--text", required=True, help="the caption")
    parser.add_argument("--model", type=Path, default=Path("models/emoji"), help="model folder")
    parser.add_argument("--candidates", type=int, default=8, help="pictures to draw")
    parser.add_argument("--seed", type=int, default=0, help="candidate k of a seed is one picture")
    parser.add_argument("--first", type=int, default=0, help="number of the first candidate")
    parser.add_argument("--temperature", type=float, default=1.0, help="1 is the paper's")
    parser.add_argument("--top-k", type=int, default=0, help="keep the k likeliest codes; 0: all")
    parser.add_argument("--top-p", type=float, default=1.0, help="keep the likeliest share p")
    parser.add_argument(
        "--guidance",
        type=float,
        help="above 1 follows the caption more closely (default: 4 where the model was trained for "
        "it, else 1, the paper's)",
    )
    parser.add_argument("--out", type=Path, default=Path("out"), help="folder to write into")
    parser.add_argument("--top", type=int, help="keep the best so many, as the reranker scores")
    parser.add_argument(
        "--rerank",
        action=argparse.BooleanOptionalAction,
        help="score the candidates and show the best first (default: where there is a reranker)",
    )
    parser.add_argument(
        "--reranker", type=Path, help="a dual encoder's folder (default: MODEL/reranker)"
    )
    parser.add_argument(
        "--preview", action="store_true", help="write preview.png anew after each row of codes"
    )
    kept = parser.add_argument_group("a picture to start from")
    kept.add_argument("--image", type=Path, help="picture of which a part is kept")
    kept.add_argument("--keep-rows", type=int, help="its top rows of codes (default: half)")
    kept.add_argument(
        "--redraw-from",
        type=int,
        nargs=2,
        metavar=("ROW", "COLUMN"),
        help="instead: keep all of it but the codes from here to the bottom right corner",
    )
    kept.add_argument(
        "--log-likelihood",
        action="store_true",
        help="say how likely the picture is under the caption, and draw nothing",
    )
    speed = parser.add_argument_group("speed and memory")
    speed.add_argument(
        "--memory", type=float, default=4.0, help="GB for caches; more candidates go in batches"
    )
    speed.add_argument(
        "--dry-run", action="store_true", help="say how much memory drawing takes, and draw nothing"
    )
    speed.add_argument(
        "--precision", choices=PRECISIONS, default="float32", help="of the transformer's weights"
    )
    speed.add_argument(
        "--compile",
        action="store_true",
        help="compile the decoding step: half a minute first, then several times faster",
    )
    return parser.parse_args(argv)


@command
def main() -> int:
    options = parse_arguments()
    check(options)
    reranker = options.reranker if options.rerank is not False else None
    model = load_text_to_image(options.model, options.precision, options.compile, reranker)
    if model.reranker is None and (options.rerank or options.top):
        raise UserError(f"{options.model} has no {RERANKER} to rank with: name one by --reranker")
    if options.guidance is None:
        options.guidance = model.guidance
    if cut := model.text.cut(options.text, model.transformer.config.text_length):
        print(f"warning: {cut}", file=sys.stderr)
    if options.log_likelihood:
        print(likelihood_report(model, options))
        return 0
    given = read_prompt(model, options)
    if options.dry_run:
        print(memory_report(model, options))
        return 0
    folder = make_folder(options.out / slug(options.text))
    drawn, stopped = draw(model, options, given, folder)
    count, scores = len(drawn.pictures), None
    if model.reranker and options.rerank is not False:
        options.reranker = options.reranker or options.model / RERANKER
        drawn, scores = best_first(model, drawn, options)
    sheet, record = write(folder, options, drawn, given, scores)
    if stopped:
        left = f"--first {options.first + count} --candidates {options.candidates - count}"
        print(f"interrupted: kept {count} candidates in {folder}; {left} draws the rest")
        return 130
    kept = f"the best {len(drawn.pictures)} of " if len(drawn.pictures) < count else ""
    print(f"wrote {kept}{count} candidates to {folder}, the grid {sheet} and {record}")
    return 0


def best_first(
    model: TextToImage, drawn: Drawn, options: argparse.Namespace
) -> tuple[Drawn, list[float]]:
    """Return the candidates as the reranker orders them, --top at most, and their scores."""
    if cut := ranker_cut(model.reranker, options.text) if model.reranker else None:
        print(f"warning: the reranker's {cut}", file=sys.stderr)
    scores = model.rank(drawn)
    order = scores.argsort(descending=True, stable=True)[: options.top]
    return select(drawn, order.tolist()), scores[order].tolist()


def check(options: argparse.Namespace) -> None:
    """Raise `UserError` for options that make no sense, before anything is loaded."""
    if options.candidates < 1:
        raise UserError(f"candidates is {options.candidates}: write a number of at least 1")
    if options.first < 0:
        raise UserError(f"first is {options.first}: candidates are numbered from 0")
    if options.top is not None and options.top < 1:
        raise UserError(f"--top is {options.top}: write how many of the candidates to keep")
    if options.top is not None and options.rerank is False:
        raise UserError("--top keeps what the reranker likes best: leave --no-rerank out")
    if not (options.memory > 0 and math.isfinite(options.memory)):
        raise UserError(f"--memory is {options.memory}: write how many GB the caches may take")
    prompt = ("keep_rows", "redraw_from")
    if options.image is None and any(getattr(options, name) is not None for name in prompt):
        raise UserError("--keep-rows and --redraw-from need --image, the picture to keep of")
    if options.image is None and options.log_likelihood:
        raise UserError("--log-likelihood needs --image, the picture in question")
    if all(getattr(options, name) is not None for name in prompt):
        raise UserError("--keep-rows and --redraw-from exclude each other: give one")


def draw(
    model: TextToImage, options: argparse.Namespace, given: Tensor | None, folder: Path
) -> tuple[Drawn, bool]:
    """Draw the candidates; Ctrl-C keeps the finished batches, and is what the second value says."""
    columns = model.tokenizer.columns
    parts: list[Drawn] = []
    with tqdm(desc="drawing", unit="row", dynamic_ncols=True) as bar:

        def progress(at: Progress) -> None:
            bar.total = math.ceil(at.steps / columns)
            bar.update(at.step // columns - bar.n)
            if options.preview and (at.step % columns == 0 or at.step == at.steps):
                pictures = model.pictures(at.codes[:PREVIEWED])
                write_preview(folder / "preview.png", pictures, options.text)

        try:
            parts += model.batches(
                options.text,
                options.candidates,
                seed=options.seed,
                first=options.first,
                temperature=options.temperature,
                top_k=options.top_k,
                top_p=options.top_p,
                guidance=options.guidance,
                given=given,
                memory=options.memory * 1e9,
                progress=progress,
            )
        except KeyboardInterrupt:
            if not parts:
                raise
            return join(parts), True
    return join(parts), False


def memory_report(model: TextToImage, options: argparse.Namespace) -> str:
    """Return in a sentence what the candidates' caches take, and in how many batches."""
    transformer, guided = model.transformer, options.guidance != 1
    most = fitting_batch(transformer, int(options.memory * 1e9), guided)
    batches = math.ceil(options.candidates / most)
    together = math.ceil(options.candidates / batches)
    streams = 2 if guided else 1
    return (
        f"{options.candidates} candidates in {batches} batch{'es' if batches > 1 else ''} of up to "
        f"{together}: {transformer.cache_bytes(streams, streams * together) / 1e6:.1f} MB of "
        f"caches, {transformer.cache_bytes(streams, 0) / 1e6:.2f} MB of it the caption's"
    )


def likelihood_report(model: TextToImage, options: argparse.Namespace) -> str:
    """Return in a sentence how likely a picture is under the caption."""
    codes = read_codes(model, options.image)
    value = model.log_likelihood([options.text], codes[None]).item()
    each = value / len(codes)
    return f"{options.image}: log-likelihood {value:.2f} nats, {each:.3f} a code"


def read_codes(model: TextToImage, path: Path) -> Tensor:
    """Return a picture's codes [RC]: those it was drawn from, where a record beside it has them."""
    try:
        image = open_picture(path, str(path))
    except UnreadablePictureError as error:
        raise UserError(f"--image: not a readable picture: {error}") from None
    recorded = recorded_codes(path, image, model)
    return model.codes([image])[0] if recorded is None else recorded


def read_prompt(model: TextToImage, options: argparse.Namespace) -> Tensor | None:
    """Return --image's codes [RC] with `DRAW` for those to draw, or None without a picture."""
    if options.image is None:
        return None
    rows, columns = model.tokenizer.rows, model.tokenizer.columns
    keep = rows // 2 if options.keep_rows is None else options.keep_rows
    row, column = options.redraw_from or (keep, 0)
    if options.redraw_from is None and not 1 <= row <= rows:
        raise UserError(f"--keep-rows is {row}: write 1 to {rows}, which keeps all of it")
    if options.redraw_from and not (0 <= row < rows and 0 <= column < columns and row + column):
        raise UserError(
            f"--redraw-from is {row} {column}: write a row from 0 to {rows - 1} and a column from "
            f"0 to {columns - 1}, not both 0"
        )
    grid = read_codes(model, options.image).view(rows, columns).clone()
    grid[row:, column:] = DRAW
    return grid.flatten()


if __name__ == "__main__":
    raise SystemExit(main())
