"""Find images by text, or the like of an image: index a folder once, then ask.

python search.py index FOLDER --index FILE
python search.py find "a red heart" --index FILE
python search.py find --image IMAGE --index FILE
"""

import dalle_base.common.interrupts  # noqa: F401  # isort: skip  # first of all

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from dalle_base.common.arguments import Number, add_device
from dalle_base.common.bounds import From1
from dalle_base.common.errors import UserError, command
from dalle_base.common.report import prepare_output, say, shown, table, write_json

if TYPE_CHECKING:
    from torch import Tensor

    from dual_encoder.index import Hit, Update
    from dual_encoder.ranker import Ranker


def parse_arguments(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    shared = argparse.ArgumentParser(add_help=False)
    shared.add_argument("--index", type=Path, required=True, help="the index, one file")
    shared.add_argument(
        "--model", type=Path, default=Path("models/emoji/reranker"), help="dual encoder's folder"
    )
    add_device(shared)
    commands = parser.add_subparsers(dest="command", required=True)
    index = commands.add_parser(
        "index", parents=[shared], help="index a folder's images, or update its index"
    )
    index.add_argument("folder", type=Path, help="images, also in folders within")
    find = commands.add_parser("find", parents=[shared], help="find images in an index")
    find.add_argument("text", nargs="?", help="what the images show")
    find.add_argument(
        "--image", "--picture", type=Path, help="instead: an image, to find the like of"
    )
    find.add_argument("--top", action=Number, kind=From1, default=10, help="images to find")
    find.add_argument("--faiss", action="store_true", help="search with faiss; same results")
    find.add_argument("--json", type=Path, help="also write the results here")
    find.add_argument("--out", type=Path, help="write a labelled contact sheet into this folder")
    options = parser.parse_args(argv)
    if options.command == "find" and (options.text is None) == (options.image is None):
        raise UserError("say what to find: either a text or --image IMAGE")
    return options


@command
def main() -> None:
    options = parse_arguments()
    from dalle_base.common.device import announce, choose_device, enough_memory

    device = choose_device(options.device)
    announce(device)
    with enough_memory("use --device cpu"):
        if options.command == "index":
            make(options.index, options.folder, load(options.model, device))
        else:
            find(options, device)


def load(folder: Path, device: object) -> "Ranker":
    from dual_encoder.checkpoint import load_dual_encoder

    return load_dual_encoder(folder).to(device)  # type: ignore[arg-type]


def make(path: Path, folder: Path, ranker: "Ranker") -> None:
    """Index a folder and say what was done."""
    from dual_encoder.index import InterruptedUpdate, update_index

    try:
        print(summary(path, update_index(path, folder, ranker)))
    except InterruptedUpdate as stop:
        print(summary(path, stop.update), file=sys.stderr)
        raise


def summary(path: Path, update: "Update") -> str:
    """Return in a line what an update did."""
    parts = [f"{update.new} new", f"{update.changed} changed", f"{update.dropped} dropped"]
    parts.append(f"{update.unchanged} unchanged")
    if update.skipped:
        parts.append(f"{update.skipped} skipped (not readable)")
    if update.left:
        parts.append(f"{update.left} left for the next time")
    return f"{path}: {len(update.index.entries)} images; {', '.join(parts)}"


def find(options: argparse.Namespace, device: object) -> None:
    """Search an index, print what was found, and write it where that is asked for."""
    from dual_encoder.index import search_file

    prepare_output(options.json, options.out)
    ranker = load(options.model, device)
    query = read_query(ranker, options.text, options.image)
    hits = search_file(options.index, ranker.model, query.numpy(), options.top, options.faiss)
    print(table([[f"{hit.score:.4f}", shown(hit.path)] for hit in hits]))
    if options.json:
        asked = {"text": options.text, "picture": str(options.image or "") or None}
        results = [{"picture": str(hit.path), "score": hit.score} for hit in hits]
        write_json(options.json, {**asked, "model": str(options.model), "results": results})
    if options.out:
        title = options.text or f"like {options.image}"
        print("wrote", *write_hits(options.out, hits, shown(title)))


def read_query(ranker: "Ranker", text: str | None, image: Path | None) -> "Tensor":
    """Return the features [E] of what is asked for. Raises `UserError`."""
    from dalle_base.common.opening import read_image
    from dual_encoder.rank import cut

    if text is not None:
        if where := cut(ranker, text):
            print(f"warning: {where}", file=sys.stderr)
        return ranker.text_features([text])[0]
    assert image is not None
    return ranker.image_features([read_image(image, "--image")])[0]


def write_hits(folder: Path, hits: "Sequence[Hit]", title: str) -> list[Path]:
    """Write what was found as contact sheets, scores below the images."""
    from dalle_base.common.images import UnreadableImageError, open_image
    from dalle_base.common.sheets import thumbnail, write_sheets

    thumbnails, labels = [], []
    for hit in hits:
        try:
            thumbnails.append(thumbnail(open_image(hit.path, shown(hit.path))))
        except UnreadableImageError as error:
            say(f"not on the sheet: {error}; update the index", error=True)
            continue
        labels.append(f"{hit.score:.3f} {shown(hit.path.name)}")
    if not thumbnails:
        raise UserError("none of the images found can be read: update the index")
    return write_sheets(folder, thumbnails, labels, title)


if __name__ == "__main__":
    raise SystemExit(main())
