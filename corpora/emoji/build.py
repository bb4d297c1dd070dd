"""The build: packages in, three parquet files and their credits out."""

import json
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import datasets
from tqdm import tqdm

from corpora.emoji import card
from corpora.emoji.concepts import Concepts, load_concepts
from corpora.emoji.packages import fetch_all
from corpora.emoji.readers import Reading, read
from corpora.emoji.sources import LABELS, SOURCES, Source
from corpora.emoji.splits import SPLITS, split_pairs
from corpora.writing import Row, whole_files, write_rows
from dalle_base.common.errors import UserError

FEATURES = datasets.Features(
    {
        "image": datasets.Image(),
        "caption": datasets.Value("string"),
        "concept": datasets.Value("string"),
        "artist": datasets.Value("string"),
        "licence": datasets.Value("string"),
        "keywords": datasets.Sequence(datasets.Value("string")),
        "mirrorable": datasets.Value("bool"),
    }
)


def build(
    out: Path, packages: Path | None = None, allow_changed_counts: bool = False
) -> dict[str, Any]:
    """Build the corpus into the folder `out` and return what `credits.json` says of it.

    Everything is written to a scratch folder and then renamed into place, so that an interrupted
    build leaves an earlier one as it was.
    """
    with whole_files(out) as scratch:
        return _build(scratch, packages or out / "packages", allow_changed_counts)


def _build(scratch: Path, packages: Path, allow_changed_counts: bool) -> dict[str, Any]:
    wanted = [LABELS, *(source.package for source in SOURCES)]
    labels, *tarballs = fetch_all(wanted, packages)
    concepts = load_concepts(labels)
    rows: list[Row] = []
    readings: dict[str, Reading] = {}
    expected = sum(source.images for source in SOURCES)
    with tqdm(total=expected, unit="image", disable=None, file=sys.stderr) as progress:
        for source, tarball in zip(SOURCES, tarballs, strict=True):
            progress.set_description(source.artist)
            readings[source.artist] = reading = Reading()
            for row in read_rows(source, tarball, concepts, reading):
                rows.append(row)
                progress.update()
            progress.set_postfix(
                artists=len(readings), unmatched=sum(len(r.unmatched) for r in readings.values())
            )

    check_counts(Counter(row["artist"] for row in rows), allow_changed_counts)
    splits = write_splits(rows, scratch)
    summary = card.summarise(rows, splits, readings)
    (scratch / "credits.json").write_text(json.dumps(summary, indent=2) + "\n")
    (scratch / "README.md").write_text(card.readme(summary))
    return summary


def read_rows(source: Source, tarball: Path, concepts: Concepts, reading: Reading) -> Iterator[Row]:
    """The source's images as rows of the corpus."""
    for concept, png in read(source, tarball, concepts, reading):
        yield {
            "image": {"bytes": png, "path": None},
            "caption": concept.caption,
            "concept": concept.hexcode,
            "artist": source.artist,
            "licence": source.licence,
            "keywords": list(concept.keywords),
            "mirrorable": concept.mirrorable,
        }


def check_counts(counts: Counter[str], allow_changed: bool = False) -> None:
    """Stop if a package gave another number of images than its pinned version should."""
    for source in SOURCES:
        found = counts[source.artist]
        if found == source.images:
            continue
        difference = f"{source.package} gave {found} images where {source.images} were expected"
        if not allow_changed:
            raise UserError(
                f"{difference}: delete its tarball and rerun, or pass --allow-changed-counts"
            )
        print(f"warning: {difference}", file=sys.stderr)


def write_splits(rows: list[Row], folder: Path) -> dict[str, int]:
    """Write one parquet file a split and return how many images each holds."""
    drawings = Counter((row["artist"], row["image"]["bytes"]) for row in rows)
    twins = {
        (row["concept"], row["artist"])
        for row in rows
        if drawings[row["artist"], row["image"]["bytes"]] > 1
    }
    chosen = split_pairs(((row["concept"], row["artist"]) for row in rows), twins)
    sizes = {}
    for split in SPLITS:
        held = [row for row in rows if chosen[row["concept"], row["artist"]] == split]
        write_rows(held, FEATURES, folder / f"{split}.parquet")
        sizes[split] = len(held)
    return sizes
