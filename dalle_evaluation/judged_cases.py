"""What the judge looks at: captions, the real images of them, and another artist's images to find.

Always the same ones for the same data, whichever model is judged: models compare in pairs.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from dalle_base.common.errors import UserError
from dalle_base.common.images import UnreadableImageError, centre_square, open_image
from dalle_base.common.report import say
from dalle_base.data.captions import with_artist
from dalle_base.data.config import DataConfig
from dalle_base.data.sources.base import Source, Subset
from dalle_base.data.sources.hub import DatasetsConfig, DatasetsSource
from dalle_evaluation.judge_options import EVERY_ARTIST, Judging

CONCEPT = "concept"
"""The column that says what an image shows, whoever drew it."""
CONCEPTS_FILE = "held_out_concepts.parquet"
KNOWN, PAIRS, CONCEPTS = "known", "held_out_pairs", "held_out_concepts"
"""The groups: captions of training images; combinations of a known concept and a known artist that
training never saw; concepts that it never saw."""


class Drawing(NamedTuple):
    """A row of the data: a concept as an artist drew it."""

    concept: str
    artist: str
    source: Source
    index: int


class Case(NamedTuple):
    """A caption to sample, and what to compare the sample with. Images are as models see them."""

    concept: str
    artist: str
    caption: str
    """As training reads it, with the artist."""
    image: Image.Image
    """The real image of the caption."""
    reference: Image.Image
    """The same concept by the reference artist."""
    index: int
    """The real image's number in its source."""


class Exam(NamedTuple):
    """All that one model is judged on."""

    groups: dict[str, list[Case]]
    """By name: KNOWN, PAIRS and CONCEPTS, those of them that there is data for."""
    training: Source
    """The training images, of which KNOWN are some."""
    reference: str
    artist: str
    """Artists of the images to find, and of KNOWN and CONCEPTS."""


def open_exam(
    data: DataConfig, sources: tuple[Source, Source], judging: Judging, size: int
) -> Exam:
    """Choose the cases of a config's training and held-out sources.

    Args:
        data: the config's data, with a column of artists.
        sources: training and held-out images.
        judging: how many, and whose.
        size: side of the model's images; to it all are brought, so that no score is the
            resolution's.

    Raises:
        UserError: data without concepts or artists, or too little of it.
    """
    if not isinstance(data, DatasetsConfig) or not data.artist_column:
        raise UserError(
            f"the judge needs data with columns of concepts and artists ({CONCEPT!r} and "
            "data.artist_column): this config's data names none"
        )
    training = _drawings(sources[0], data)
    unseen = _held_out_concepts(data, judging)
    held_out = _drawings(sources[1], data) + (_drawings(unseen, data) if unseen else [])
    reference, artist = _artists(training, judging)
    known = {drawing.concept for drawing in training}
    # The first of each: a held-out row that training has too is no held-out one.
    rows = {(row.concept, row.artist): row for row in reversed(training + held_out)}
    references = {row.concept: row for row in rows.values() if row.artist == reference}
    others = [row for _, row in sorted(rows.items()) if row.artist != reference]
    in_style = [row for row in others if artist in (row.artist, EVERY_ARTIST)]
    chosen = {
        KNOWN: [row for row in in_style if row.source is sources[0]],
        PAIRS: [row for row in others if row.source is not sources[0] and row.concept in known],
        CONCEPTS: [row for row in in_style if row.concept not in known],
    }
    groups = {}
    for name, group in chosen.items():
        cases = _cases(group, references, judging.concepts, size)
        if len(cases) > 1:
            groups[name] = cases
        elif name == KNOWN:
            raise UserError(
                f"the judge needs 2 training concepts by {artist!r} that {reference!r} drew too: "
                f"there are {len(cases)}"
            )
        else:
            say(f"judge: no {name.replace('_', ' ')} in this data")
    return Exam(groups, sources[0], reference, artist)


def _held_out_concepts(data: DatasetsConfig, judging: Judging) -> Source | None:
    """Return the images of concepts outside the config's own data, if there are any."""
    path = judging.held_out_concepts or str(Path(data.path).with_name(CONCEPTS_FILE))
    if path == data.held_out_path or not (judging.held_out_concepts or Path(path).is_file()):
        return None
    return DatasetsSource(data, path)


def _drawings(source: Source, data: DatasetsConfig) -> list[Drawing]:
    concepts, artists = _column(source, CONCEPT), _column(source, data.artist_column)
    return [
        Drawing(str(concept), str(artist), source, index)
        for index, (concept, artist) in enumerate(zip(concepts, artists, strict=True))
        if concept and artist and source.has_caption(index)
    ]


def _column(source: Source, name: str) -> Sequence[str | None]:
    if isinstance(source, Subset):
        values = _column(source.source, name)
        return [values[i] for i in source.indices]
    assert isinstance(source, DatasetsSource)
    if name not in source.rows.column_names:
        raise UserError(
            f"the judge needs a column {name!r} in {source.path!r}; it has "
            f"{', '.join(source.rows.column_names)}"
        )
    return list(source.rows[name])


def _artists(training: Iterable[Drawing], judging: Judging) -> tuple[str, str]:
    """Return the reference artist and the one whose style captions name, or EVERY_ARTIST."""
    counts = Counter(drawing.artist for drawing in training)
    names = sorted(counts, key=lambda name: (-counts[name], name))
    for given in (judging.reference, judging.artist):
        if given not in ("", EVERY_ARTIST, *names) or given == EVERY_ARTIST != judging.artist:
            raise UserError(f"no images by {given!r} in training; there are {', '.join(names)}")
    if len(names) < 2:
        raise UserError(f"the judge compares two artists, and training has {len(names)}")
    reference = judging.reference or next(name for name in names if name != judging.artist)
    return reference, judging.artist or next(name for name in names if name != reference)


def _cases(
    rows: Sequence[Drawing], references: Mapping[str, Drawing], count: int, size: int
) -> list[Case]:
    """Choose at most `count` concepts, one image of each: a smaller number is part of a larger."""
    cases: dict[str, Case] = {}
    shown: set[bytes] = set()
    for row in _shuffled([row for row in rows if row.concept in references]):
        if len(cases) == count:
            break
        if row.concept in cases:
            continue
        try:
            image, reference = (_open(each, size) for each in (row, references[row.concept]))
        except UnreadableImageError as error:
            say(f"judge: left out an unreadable image: {error}")
            continue
        if reference.tobytes() not in shown:  # two concepts may look the same: flags of islands
            shown.add(reference.tobytes())
            caption = with_artist(row.source.record(row.index))
            cases[row.concept] = Case(row.concept, row.artist, caption, image, reference, row.index)
    return list(cases.values())


def _shuffled(rows: Sequence[Drawing]) -> Iterator[Drawing]:
    return (rows[i] for i in np.random.default_rng(0).permutation(len(rows)))


def _open(drawing: Drawing, size: int) -> Image.Image:
    record = drawing.source.record(drawing.index)
    return centre_square(open_image(record.image, record.name), size)
