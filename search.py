"""Find pictures by text, or the like of a picture: index a folder once, then ask.

python search.py index FOLDER --index FILE
python search.py find "a red heart" --index FILE
python search.py find --picture PICTURE --index FILE
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from torch import Tensor
from tqdm import tqdm

from dual_encoder.checkpoint import Ranker, load_dual_encoder
from dual_encoder.index import (
    Hit,
    InterruptedUpdate,
    Update,
    check_model,
    model_fingerprint,
    read_index,
    search_index,
    update_index,
)
from dual_encoder.rank import cut
from dual_encoder.results import (
    prepare_output,
    shown,
    table,
    thumbnail,
    write_json,
    write_sheets,
)
from training.errors import UserError, command
from training.pictures import UnreadablePictureError, open_picture


def parse_arguments(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    shared = argparse.ArgumentParser(add_help=False)
    shared.add_argument("--index", type=Path, required=True, help="the index, one file")
    shared.add_argument(
        "--model", type=Path, default=Path("models/emoji/reranker"), help="dual encoder's folder"
    )
    commands = parser.add_subparsers(dest="command", required=True)
    index = commands.add_parser(
        "index", parents=[shared], help="index a folder's pictures, or update its index"
    )
    index.add_argument("folder", type=Path, help="pictures, also in folders within")
    find = commands.add_parser("find", parents=[shared], help="find pictures in an index")
    find.add_argument("text", nargs="?", help="what the pictures show")
    find.add_argument("--picture", type=Path, help="instead: a picture, to find the like of")
    find.add_argument("--top", type=int, default=10, help="pictures to find")
    find.add_argument("--faiss", action="store_true", help="search with faiss; same results")
    find.add_argument("--json", type=Path, help="also write the results here")
    find.add_argument("--out", type=Path, help="write a labelled contact sheet into this folder")
    return parser.parse_args(argv)


@command
def main() -> None:
    options = parse_arguments()
    if options.command == "index":
        make(options)
    else:
        find(options)


def make(options: argparse.Namespace) -> None:
    """Index a folder and say what was done."""
    try:
        print(summary(options.index, update_index(options.index, options.folder, load(options))))
    except InterruptedUpdate as stop:
        print(summary(options.index, stop.update), file=sys.stderr)
        raise


def summary(path: Path, update: Update) -> str:
    """Return in a line what an update did."""
    parts = [f"{update.new} new", f"{update.changed} changed", f"{update.dropped} dropped"]
    parts.append(f"{update.unchanged} unchanged")
    if update.skipped:
        parts.append(f"{update.skipped} skipped (not readable)")
    if update.left:
        parts.append(f"{update.left} left for the next time")
    return f"{path}: {len(update.index.entries)} pictures; {', '.join(parts)}"


def load(options: argparse.Namespace) -> Ranker:
    return load_dual_encoder(options.model)


def find(options: argparse.Namespace) -> None:
    """Search an index, print what was found, and write it where that is asked for."""
    if (options.text is None) == (options.picture is None):
        raise UserError("say what to find: either a text or --picture PICTURE")
    if options.top < 1:
        raise UserError(f"--top is {options.top}: write a number of at least 1")
    index = read_index(options.index)
    ranker = load(options)
    check_model(index, model_fingerprint(ranker.model), options.index)
    query = read_query(ranker, options.text, options.picture)
    prepare_output(options.json, options.out)
    hits = search_index(index, query.numpy(), options.top, options.faiss)
    print(table([[f"{hit.score:.4f}", shown(hit.path)] for hit in hits]))
    if options.json:
        asked = {"text": options.text, "picture": str(options.picture or "") or None}
        results = [{"picture": str(hit.path), "score": hit.score} for hit in hits]
        write_json(options.json, {**asked, "model": str(options.model), "results": results})
    if options.out:
        title = options.text or f"like {options.picture}"
        print("wrote", *write_hits(options.out, hits, shown(title)))


def read_query(ranker: Ranker, text: str | None, picture: Path | None) -> Tensor:
    """Return the features [E] of what is asked for. Raises `UserError`."""
    if text is not None:
        if where := cut(ranker, text):
            print(f"warning: {where}", file=sys.stderr)
        return ranker.text_features([text])[0]
    assert picture is not None
    try:
        return ranker.image_features([open_picture(picture, shown(picture))])[0]
    except UnreadablePictureError as error:
        raise UserError(f"--picture: not a readable picture: {error}") from None


def write_hits(folder: Path, hits: Sequence[Hit], title: str) -> list[Path]:
    """Write what was found as contact sheets, scores below the pictures."""
    thumbnails, labels = [], []
    for hit in hits:
        try:
            thumbnails.append(thumbnail(open_picture(hit.path, shown(hit.path))))
        except UnreadablePictureError as error:
            tqdm.write(f"not on the sheet: {error}; update the index", file=sys.stderr)
            continue
        labels.append(f"{hit.score:.3f} {shown(hit.path.name)}")
    if not thumbnails:
        raise UserError("none of the pictures found can be read: update the index")
    return write_sheets(folder, thumbnails, labels, title)


if __name__ == "__main__":
    raise SystemExit(main())
