"""The build: a package in, parquet files by part and split and their credits out."""

import json
import sys
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import datasets
import numpy as np
from tqdm import tqdm

from corpora.emoji.packages import fetch_all
from corpora.icons import card
from corpora.icons.drawing import decoded, draw, png, thumbnail
from corpora.icons.duplicates import TOLERANCE_COLOURED, TOLERANCE_MASKS, distinct
from corpora.icons.mirror import mirrorable
from corpora.icons.nouns import WORDNET, load_lexicon
from corpora.icons.painting import Painted, paint
from corpora.icons.reading import Survey, check_version, read_sets, survey
from corpora.icons.sets import COLOURED, ICON_PARK, PACKAGE, PARTS, SILHOUETTES, all_sets
from corpora.icons.sheet import contact_sheet
from corpora.icons.splits import EmojiCorpus, read_emoji, split_part, splits_of
from corpora.writing import Row, whole_files, write_rows
from dalle_base.common.files import prepare_folder
from dalle_base.common.report import say

_TEXTS = ("caption", "concept", "artist", "licence", "set", "icon", "author", "colour", "ground")
FEATURES = datasets.Features(
    {
        "image": datasets.Image(),
        **{name: datasets.Value("string") for name in _TEXTS},
        "keywords": datasets.Sequence(datasets.Value("string")),
        "mirrorable": datasets.Value("bool"),
    }
)
SHEET = "contact-sheet.png"


def build(out: Path, packages: Path | None = None, emoji: Path | None = None) -> dict[str, Any]:
    """Build the corpus into the folder `out` and return what `credits.json` says of it.

    Everything is written to a scratch folder and then renamed into place, so that an interrupted
    build leaves an earlier one as it was.

    Args:
        out: the corpus's folder.
        packages: folder of npm tarballs, fetched if missing; `packages` under `out` by default.
        emoji: the emoji corpus, whose held-out concepts are held out here too.

    Raises:
        UserError: a package that cannot be had or is another one, or a place that is not writable.
    """
    prepare_folder(out)
    packages = packages or out / "packages"
    say(f"building {out} from {PACKAGE} in {packages}: takes about four minutes", error=True)
    if emoji is None:
        say("without an emoji corpus: its art may come again, in train or held out", error=True)
    draw(
        '<svg xmlns="http://www.w3.org/2000/svg" width="64" height="64"/>'
    )  # or say what is needed
    known = read_emoji(emoji) if emoji else EmojiCorpus()
    with whole_files(out) as scratch:
        return _build(scratch, packages, known, str(emoji or ""))


def _build(scratch: Path, packages: Path, known: EmojiCorpus, emoji: str) -> dict[str, Any]:
    icons, words = fetch_all([PACKAGE, WORDNET], packages)
    check_version(icons)
    lexicon, sets = load_lexicon(words), all_sets()
    with tqdm(total=len(sets), desc="names", unit="set", disable=None, file=sys.stderr) as progress:
        found = survey(icons, sets, lexicon, lambda prefix: progress.update())
    painted: dict[str, list[Painted]] = defaultdict(list)
    total = sum(map(len, found.icons.values()))
    with tqdm(total=total, desc="drawing", unit="icon", disable=None, file=sys.stderr) as progress:
        for icon, collection in _chosen(icons, found):
            image = paint(icon, collection)
            if image is not None:
                painted[icon.set.part].append(image)
            progress.update()
    rows = {
        part: [_row(image, found) for image in _without_duplicates(part, painted[part], known)]
        for part in PARTS
    }
    sizes = write_splits(rows, known, scratch)
    everything = [row for part in PARTS for row in rows[part]]
    summary = card.summarise(everything, sizes, found, emoji)
    (scratch / "credits.json").write_text(json.dumps(summary, indent=2) + "\n")
    (scratch / "README.md").write_text(card.readme(summary))
    contact_sheet(everything).save(scratch / SHEET)
    return summary


def _chosen(tarball: Path, found: Survey) -> Iterator[tuple[Any, dict[str, Any]]]:
    """The icons to draw, each with its set as iconify writes it."""
    wanted = {prefix: each for prefix, each in all_sets().items() if found.icons[prefix]}
    for each, collection in read_sets(tarball, wanted):
        for icon in found.icons[each.prefix]:
            yield icon, collection


def _without_duplicates(part: str, images: list[Painted], known: EmojiCorpus) -> list[Painted]:
    if not images:
        return []
    tolerance = TOLERANCE_MASKS if part == SILHOUETTES else TOLERANCE_COLOURED
    against = None
    if part == COLOURED and known.images:
        emoji = tqdm(known.images, "emoji", unit="image", disable=None, file=sys.stderr)
        against = np.stack([thumbnail(decoded(image)) for image in emoji])
    stays = distinct(np.stack([image.thumbnail for image in images]), tolerance, against)
    return [image for image, stay in zip(images, stays, strict=True) if stay]


def _row(image: Painted, found: Survey) -> Row:
    icon = image.icon
    about = found.about[icon.set.prefix]
    return {
        "image": {"bytes": png(image.pixels()), "path": None},
        "caption": image.caption,
        "concept": icon.concept,
        "artist": icon.set.artist,
        "licence": about["licence"],
        "set": icon.set.prefix,
        "icon": icon.name,
        "author": about["author"],
        "colour": image.colour,
        "ground": image.ground,
        "keywords": list(icon.keywords),
        "mirrorable": mirrorable(icon.concept),
    }


def write_splits(
    rows: dict[str, list[Row]], known: EmojiCorpus, folder: Path
) -> dict[str, dict[str, int]]:
    """Write one parquet file for each split of each part; return how many images each holds."""
    painted = [row for part in (SILHOUETTES, ICON_PARK) for row in rows[part]]
    by_colour = split_part(SILHOUETTES, _pairs(painted, "colour"), known)
    by_artist = split_part(COLOURED, _pairs(rows[COLOURED], "artist"), known)
    sizes: dict[str, dict[str, int]] = {}
    for part in PARTS:
        style, chosen = ("artist", by_artist) if part == COLOURED else ("colour", by_colour)
        sizes[part] = {}
        for split in splits_of(part):
            held = [row for row in rows[part] if chosen[row["concept"], row[style]] == split]
            write_rows(held, FEATURES, folder / f"{part}-{split}.parquet")
            sizes[part][split] = len(held)
    return sizes


def _pairs(rows: list[Row], style: str) -> list[tuple[str, str]]:
    return [(row["concept"], row[style]) for row in rows]
