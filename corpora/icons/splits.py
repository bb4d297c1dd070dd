"""Which images a model never trains on: as the emoji corpus holds them out, and in accord with it.

A concept that the emoji corpus knows is held out here if it is there. Others are held out by a
stable hash of their names, in all parts of the corpus.
"""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

import pyarrow.parquet as pq

from corpora.emoji.concepts import slug
from corpora.emoji.splits import HELD_OUT_CONCEPTS, HELD_OUT_PAIRS, SPLITS, TRAIN, split_pairs
from corpora.icons.sets import COLOURED, GLOSSY, GLOSSY_TWIN
from dalle_base.common.errors import UserError

HELD_OUT_COLOURS = "held_out_colours"


@dataclass
class EmojiCorpus:
    """What the emoji corpus holds out, and its images."""

    held_out: dict[str, bool] = field(default_factory=dict)
    """Whether a concept is held out, by its `slug`."""
    glossy: dict[str, str] = field(default_factory=dict)
    """The split of each concept's image by the artist whose designs come again here."""
    artists: Counter[str] = field(default_factory=Counter)
    """How many artists' images of each concept are in train."""
    images: list[bytes] = field(default_factory=list)
    """All but those of `GLOSSY_TWIN`, which are meant to come again."""


def read_emoji(folder: Path) -> EmojiCorpus:
    """Read the emoji corpus in a folder. Raises `UserError` if there is none, or a damaged one."""
    corpus = EmojiCorpus()
    for split in SPLITS:
        file = folder / f"{split}.parquet"
        try:
            table = pq.read_table(file, columns=["caption", "artist", "image"])
        except (OSError, ValueError, KeyError) as error:
            reason = str(error).splitlines()[0]
            raise UserError(f"{file} is no split of the emoji corpus: {reason}") from None
        for row in table.to_pylist():
            concept = slug(row["caption"])
            corpus.held_out[concept] = split == HELD_OUT_CONCEPTS
            corpus.artists[concept] += split == TRAIN
            if row["artist"] == GLOSSY_TWIN:
                corpus.glossy[concept] = split
            else:
                corpus.images.append(row["image"]["bytes"])
    return corpus


def splits_of(part: str) -> tuple[str, ...]:
    """The names of a part's splits."""
    middle = HELD_OUT_PAIRS if part == COLOURED else HELD_OUT_COLOURS
    return TRAIN, middle, HELD_OUT_CONCEPTS


def split_part(
    part: str, pairs: Iterable[tuple[str, str]], emoji: EmojiCorpus
) -> dict[tuple[str, str], str]:
    """The split of each (concept, artist) of the coloured part, else of each (concept, colour).

    Pairs of the other parts are to be split together: what is red in one is not new in another.
    A held-out combination is one of two things of which each is in train otherwise: the concept by
    two other artists (the emoji corpus's count), or in two other colours, or more.
    """
    spelt = {(concept, style): (slug(concept), style) for concept, style in pairs}
    keys = dict.fromkeys(spelt.values())
    is_glossy = {key for key in keys if key[1] == GLOSSY and key[0] in emoji.glossy}
    others = (key for key in keys if key not in is_glossy)
    elsewhere = emoji.artists if part == COLOURED else None
    chosen = split_pairs(others, decided=emoji.held_out, elsewhere=elsewhere)
    chosen |= {key: emoji.glossy[key[0]] for key in is_glossy}
    middle = splits_of(part)[1]
    return {
        pair: middle if chosen[key] == HELD_OUT_PAIRS else chosen[key]
        for pair, key in spelt.items()
    }
