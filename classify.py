"""Images and labels: how probable each label is for each image, by a dual encoder."""

import dalle_base.common.interrupts  # noqa: F401  # isort: skip  # first of all

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from dalle_base.common.arguments import Number, add_device
from dalle_base.common.bounds import From1
from dalle_base.common.errors import UserError, command
from dalle_base.common.report import prepare_output, shown, table, write_json

if TYPE_CHECKING:
    from PIL import Image
    from torch import Tensor

    from dual_encoder.ranker import Ranker

LABEL = "{}"
"""The label as it is: the shipped model learned from bare captions."""


def parse_arguments(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("images", type=Path, nargs="+", help="image files, or folders of them")
    parser.add_argument("--labels", nargs="+", default=[], help="what an image may show")
    parser.add_argument("--labels-file", type=Path, help="more labels, one a line")
    parser.add_argument(
        "--template",
        nargs="+",
        default=[LABEL],
        help='captions with {} for the label, averaged: "a picture of {}" (default: the label)',
    )
    parser.add_argument(
        "--model", type=Path, default=Path("models/emoji/reranker"), help="dual encoder's folder"
    )
    add_device(parser)
    parser.add_argument(
        "--top", action=Number, kind=From1, default=5, help="labels to print for each image"
    )
    parser.add_argument("--json", type=Path, help="write all probabilities here")
    parser.add_argument("--out", type=Path, help="write a labelled contact sheet into this folder")
    return parser.parse_args(argv)


@command
def main() -> None:
    options = parse_arguments()
    labels = read_labels(options.labels, options.labels_file)
    paths, named = find_images(options.images)
    from dalle_base.common.device import announce, choose_device, enough_memory
    from dual_encoder.checkpoint import load_dual_encoder
    from dual_encoder.rank import label_features

    device = choose_device(options.device)
    announce(device)
    with enough_memory("use --device cpu"):
        ranker = load_dual_encoder(options.model).to(device)
        features = label_features(ranker, labels, options.template)
        warn_of_cuts(ranker, labels, options.template)
        prepare_output(options.json, options.out)
        read, found, thumbnails = run(ranker, paths, named, features, options.out is not None)
    report(options, labels, read, found, thumbnails)


def report(
    options: argparse.Namespace,
    labels: list[str],
    read: list[Path],
    found: "Tensor",
    thumbnails: "list[Image.Image]",
) -> None:
    """Print the best labels of each image, and write all of them where that is asked for."""
    best = found.topk(min(options.top, len(labels)), dim=1)
    rows = [
        [shown(path)]
        + [f"{v:6.1%}  {shown(labels[i])}" for v, i in zip(values, indices, strict=True)]
        for path, values, indices in zip(
            read, best.values.tolist(), best.indices.tolist(), strict=True
        )
    ]
    print(table(rows))
    if options.json:
        results = [
            {"picture": str(path), "probabilities": dict(zip(labels, row, strict=True))}
            for path, row in zip(read, found.tolist(), strict=True)
        ]
        record = {"model": str(options.model), "templates": options.template, "results": results}
        write_json(options.json, record)
    if options.out:
        from dalle_base.common.sheets import write_sheets

        under = [
            f"{row[0]:.0%} {labels[i[0]]}" for row, i in zip(best.values, best.indices, strict=True)
        ]
        sheets = write_sheets(options.out, thumbnails, under, f"the best of {len(labels)} labels")
        print("wrote", *sheets)


def read_labels(given: Sequence[str], file: Path | None) -> list[str]:
    """Return the labels of the command line and of a file. Raises `UserError`."""
    labels = list(given)
    if file:
        try:
            lines = file.read_text("utf-8").splitlines()
        except FileNotFoundError:
            raise UserError(f"--labels-file {file} does not exist") from None
        except UnicodeDecodeError:
            raise UserError(f"--labels-file {file} is not a text file in UTF-8") from None
        labels += [line.strip() for line in lines if line.strip()]
    if not labels:
        raise UserError("no labels: give --labels or --labels-file, two or more labels")
    return labels


def find_images(places: Sequence[Path]) -> tuple[list[Path], frozenset[Path]]:
    """Return all image files in order, once each, and those that were given by name."""
    from dalle_base.data.image_files import images_under

    paths: dict[Path, None] = {}
    named = set()
    for place in places:
        if place.is_dir():
            paths |= dict.fromkeys(images_under(place))
        elif place.exists():
            paths[place] = None
            named.add(place)
        else:
            raise UserError(f"no image or folder {shown(place)}")
    return list(paths), frozenset(named)


def warn_of_cuts(ranker: "Ranker", labels: Sequence[str], templates: Sequence[str]) -> None:
    """Say which captions are too long for the model to read whole."""
    from dual_encoder.rank import cut

    for template in templates:
        for label in labels:
            if where := cut(ranker, template.replace("{}", label)):
                print(f"warning: {where}", file=sys.stderr)


def run(
    ranker: "Ranker",
    paths: Sequence[Path],
    named: frozenset[Path],
    label_features: "Tensor",
    sheets: bool,
) -> "tuple[list[Path], Tensor, list[Image.Image]]":
    """Return the files that could be read, their probabilities [N, L], and thumbnails if wanted.

    Raises `UserError` where none can be read, or one that was given by name.
    """
    import torch
    from tqdm import tqdm

    from dalle_base.common.sheets import thumbnail
    from dalle_base.data.image_files import open_batches
    from dual_encoder.rank import probabilities

    read: list[Path] = []
    parts: list[Tensor] = []
    thumbnails: list[Image.Image] = []
    skipped = 0
    with tqdm(total=len(paths), desc="classifying", unit="image", dynamic_ncols=True) as bar:
        for batch in open_batches(paths, named):
            features = ranker.image_features(batch.images)
            parts.append(probabilities(ranker, features, label_features))
            read += batch.paths
            if sheets:
                thumbnails += map(thumbnail, batch.images)
            skipped += len(batch.skipped)
            bar.update(len(batch.paths) + len(batch.skipped))
    if not read:
        raise UserError(f"none of the {len(paths)} images can be read (see the lines above)")
    if skipped:
        print(f"skipped {skipped} of {len(paths)} images that cannot be read", file=sys.stderr)
    return read, torch.cat(parts), thumbnails


if __name__ == "__main__":
    raise SystemExit(main())
