"""Pictures and labels: how probable each label is for each picture, by a dual encoder."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor
from tqdm import tqdm

from dual_encoder.checkpoint import Ranker, load_dual_encoder
from dual_encoder.rank import TEMPLATES, cut, label_features, probabilities
from dual_encoder.results import (
    open_batches,
    pictures_under,
    prepare_output,
    shown,
    table,
    thumbnail,
    write_json,
    write_sheets,
)
from training.errors import UserError, command


def parse_arguments(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("pictures", type=Path, nargs="+", help="picture files, or folders of them")
    parser.add_argument("--labels", nargs="+", default=[], help="what a picture may show")
    parser.add_argument("--labels-file", type=Path, help="more labels, one a line")
    parser.add_argument(
        "--template",
        nargs="+",
        default=list(TEMPLATES),
        help='captions with {} for the label, averaged: "a picture of {}" (default: the label)',
    )
    parser.add_argument(
        "--model", type=Path, default=Path("models/emoji/reranker"), help="dual encoder's folder"
    )
    parser.add_argument("--top", type=int, default=5, help="labels to print for each picture")
    parser.add_argument("--json", type=Path, help="write all probabilities here")
    parser.add_argument("--out", type=Path, help="write a labelled contact sheet into this folder")
    return parser.parse_args(argv)


@command
def main() -> None:
    options = parse_arguments()
    if options.top < 1:
        raise UserError(f"--top is {options.top}: write a number of at least 1")
    labels = read_labels(options.labels, options.labels_file)
    paths, named = find_pictures(options.pictures)
    ranker = load_dual_encoder(options.model)
    words = label_features(ranker, labels, options.template)
    warn_of_cuts(ranker, labels, options.template)
    prepare_output(options.json, options.out)
    read, found, thumbnails = run(ranker, paths, named, words, options.out is not None)

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


def find_pictures(places: Sequence[Path]) -> tuple[list[Path], frozenset[Path]]:
    """Return all picture files in order, once each, and those that were given by name."""
    paths: dict[Path, None] = {}
    named = set()
    for place in places:
        if place.is_dir():
            paths |= dict.fromkeys(pictures_under(place))
        elif place.exists():
            paths[place] = None
            named.add(place)
        else:
            raise UserError(f"no picture or folder {shown(place)}")
    return list(paths), frozenset(named)


def warn_of_cuts(ranker: Ranker, labels: Sequence[str], templates: Sequence[str]) -> None:
    """Say which captions are too long for the model to read whole."""
    for template in templates:
        for label in labels:
            if where := cut(ranker, template.replace("{}", label)):
                print(f"warning: {where}", file=sys.stderr)


def run(
    ranker: Ranker, paths: Sequence[Path], named: frozenset[Path], words: Tensor, sheets: bool
) -> tuple[list[Path], Tensor, list[Image.Image]]:
    """Return the files that could be read, their probabilities [N, L], and thumbnails if wanted.

    Raises `UserError` where none can be read, or one that was given by name.
    """
    read: list[Path] = []
    parts: list[Tensor] = []
    thumbnails: list[Image.Image] = []
    skipped = 0
    with tqdm(total=len(paths), desc="classifying", unit="picture", dynamic_ncols=True) as bar:
        for batch in open_batches(paths, named):
            features = ranker.image_features(batch.pictures)
            parts.append(probabilities(ranker, features, words))
            read += batch.paths
            if sheets:
                thumbnails += map(thumbnail, batch.pictures)
            skipped += len(batch.skipped)
            bar.update(len(batch.paths) + len(batch.skipped))
    if not read:
        raise UserError(f"none of the {len(paths)} pictures can be read (see the lines above)")
    if skipped:
        print(f"skipped {skipped} of {len(paths)} pictures that cannot be read", file=sys.stderr)
    return read, torch.cat(parts), thumbnails


if __name__ == "__main__":
    raise SystemExit(main())
