"""The build: the emoji corpus in, two parquet files, credits and a contact sheet out."""

import io
import json
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import datasets
import pyarrow.parquet as pq
from PIL import Image
from tqdm import tqdm

from corpora.emoji.splits import HELD_OUT_PAIRS, TRAIN, fraction, split_pairs
from corpora.icons.colours import COLOURS
from corpora.recoloured.hues import TARGETS, colour_of, recoloured
from corpora.writing import Row, header, whole_files, write_rows
from dalle_base.common.errors import UserError
from dalle_base.common.images import grid, save_image
from dalle_base.common.opening import open_image

HELD_OUT_COLOURS = "held_out_colours"
COPIES = 3
"""Colours that an image is drawn in, besides its own."""
NO_THINGS = {
    *("person", "man", "woman", "boy", "girl", "child", "baby", "adult", "people", "family"),
    *("couple", "hand", "finger", "gesture", "body"),
    *("button", "arrow", "zodiac", "ideograph", "japanese", "prohibited", "mark", "sign", "flag"),
    *("number", "clock", "heart", "circle", "square", "diamond"),
}
"""Keywords of what a colour does not suit (people), belongs to (signs) or exists in already."""
KEYWORDS = 6
SHOWN = 96
FEATURES = datasets.Features(
    {
        "image": datasets.Image(),
        "caption": datasets.Value("string"),
        "concept": datasets.Value("string"),
        "name": datasets.Value("string"),
        "colour": datasets.Value("string"),
        "artist": datasets.Value("string"),
        "licence": datasets.Value("string"),
        "keywords": datasets.Sequence(datasets.Value("string")),
        "mirrorable": datasets.Value("bool"),
    }
)


def build(out: Path, emoji: Path) -> str:
    """Build the corpus into the folder `out`; return a line on it.

    Raises `UserError` where there is no emoji corpus.
    """
    try:
        originals = pq.read_table(emoji / f"{TRAIN}.parquet").to_pylist()
    except (OSError, ValueError) as error:
        raise UserError(
            f"{emoji} has no emoji corpus ({str(error).splitlines()[0]}): python -m corpora.emoji "
            f"--out {emoji}"
        ) from None
    with whole_files(out) as scratch:
        return _write(list(read_rows(originals)), scratch)


def read_rows(originals: Sequence[Row]) -> Iterator[Row]:
    """Yield rows of the emoji corpus that have one colour, as they are and in others."""
    taken = {row["caption"] for row in originals}
    for row in tqdm(originals, "recolouring", disable=None, file=sys.stderr):
        name = plain_name(row["caption"])
        if not is_thing(row) or not name:
            continue
        with Image.open(io.BytesIO(row["image"]["bytes"])) as opened:
            image = opened.convert("RGBA")
        own = colour_of(image)
        if own is None:
            continue
        if own.name():
            yield described(row, name, own.name(), row["image"]["bytes"])
        near = {own.name()} | {target for target in TARGETS if f"{target} {name}" in taken}
        others = [target for target in TARGETS if target not in near]
        others.sort(key=lambda target: fraction(f"{row['concept']}/{row['artist']}/{target}"))
        for target in others[:COPIES]:
            content = io.BytesIO()
            recoloured(image, own, target).save(content, "PNG")
            yield described(row, name, target, content.getvalue())


def plain_name(caption: str) -> str:
    """Return what a caption names without its colour: "apple" for "red apple"."""
    return " ".join(word for word in caption.split() if word not in COLOURS)


def is_thing(row: Row) -> bool:
    """Whether an emoji shows a thing or an animal, and neither people nor signs nor faces."""
    words = {word for keyword in row["keywords"] for word in keyword.split()}
    words |= set(row["caption"].split())
    is_smiley = "face" in words and "animal" not in words
    return not (words & NO_THINGS or is_smiley or ":" in row["caption"] or "“" in row["caption"])


def described(row: Row, name: str, colour: str, content: bytes) -> Row:
    """Return a row of this corpus for an image of an emoji in a colour."""
    words = [word for word in row["keywords"] if word not in COLOURS and " " not in word]
    return {
        "image": {"bytes": content, "path": None},
        "caption": f"{colour} {name}",
        "concept": row["concept"],
        "name": name,
        "colour": colour,
        "artist": row["artist"],
        "licence": row["licence"],
        "keywords": [f"{colour} {word}" for word in words[:KEYWORDS]],
        "mirrorable": row["mirrorable"],
    }


def _write(rows: list[Row], folder: Path) -> str:
    pairs = sorted({(row["concept"], row["colour"]) for row in rows})
    # Concepts that the emoji corpus holds out are not in its train, from which these come.
    chosen = split_pairs(pairs, decided=dict.fromkeys((concept for concept, _ in pairs), False))
    parts: dict[str, list[Row]] = {TRAIN: [], HELD_OUT_COLOURS: []}
    for row in rows:
        held = chosen[row["concept"], row["colour"]] == HELD_OUT_PAIRS
        parts[HELD_OUT_COLOURS if held else TRAIN].append(row)
    for split, held_rows in parts.items():
        write_rows(held_rows, FEATURES, folder / f"{split}.parquet")
    summary: dict[str, Any] = {
        "images": len(rows),
        "concepts": len({row["concept"] for row in rows}),
        "splits": {split: len(part) for split, part in parts.items()},
        "colours": dict(Counter(row["colour"] for row in rows).most_common()),
        "artists": dict(Counter(row["artist"] for row in rows).most_common()),
        "licences": dict(Counter(row["licence"] for row in rows).most_common()),
    }
    (folder / "credits.json").write_text(json.dumps(summary, indent=2) + "\n")
    (folder / "README.md").write_text(readme(summary))
    some = sorted(rows, key=lambda row: fraction(f"sheet/{row['concept']}/{row['colour']}"))[:SHOWN]
    small = [open_image(row["image"]["bytes"]).resize((64, 64)) for row in some]
    save_image(grid(small, 12, [row["caption"][:11] for row in some]), folder / "sheet.png")
    counts = ", ".join(f"{split} {count}" for split, count in summary["splits"].items())
    colours = ", ".join(f"{name} {count}" for name, count in summary["colours"].items())
    return f"{len(rows)} images of {summary['concepts']} concepts; {counts}; {colours}"


def readme(summary: dict[str, Any]) -> str:
    """The corpus's README."""
    sizes = summary["splits"]
    return f"""{header(sizes)}# Emoji in other colours

{summary["images"]} images of {summary["concepts"]} concepts: emoji that have one colour, as they
are and in up to {COPIES} others. Built by `python -m corpora.recoloured` from the emoji corpus,
whose artists are credited there; what has been changed is the hue.

- `train.parquet` ({sizes[TRAIN]} images)
- `{HELD_OUT_COLOURS}.parquet` ({sizes[HELD_OUT_COLOURS]}): the concept is in train in two other
  colours or more, the colour by other concepts; this combination is not.

Columns: `image`, `caption` ("blue automobile"), `concept` (code points), `name` ("automobile"),
`colour`, `artist`, `licence`, `keywords` (with the colour), `mirrorable`.
"""
