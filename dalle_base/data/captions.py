"""Captions as training reads them: varied by wording, keywords and artist."""

import numpy as np

from dalle_base.data.config import TextConfig
from dalle_base.data.forms import wordings
from dalle_base.data.sources.base import Record, Source

TEXT = TextConfig()
WORDED_SHARE = 0.5
"""So many captions have another wording, where the data has any (data.caption_forms)."""


def with_artist(record: Record) -> str:
    """Return a caption that also names the artist, where there is one."""
    caption = record.caption or ""
    return f"{caption}, {record.artist} style" if record.artist else caption


def all_with_artist(record: Record) -> list[str]:
    """Return each of a record's captions `with_artist`; "" where it has none."""
    return [with_artist(record._replace(caption=each)) for each in record.captions or ("",)]


def vary_caption(record: Record, rng: np.random.Generator, options: TextConfig = TEXT) -> str:
    """Return a caption for training: one of the record's or its keywords, varied."""
    caption = record.caption or ""
    if record.other_captions:  # one caption asks for no random number: other runs draw the same
        caption = record.captions[int(rng.integers(len(record.captions)))]
    if record.wordings and rng.random() < WORDED_SHARE:
        caption = record.wordings[int(rng.integers(len(record.wordings)))]
    if record.keywords and rng.random() < options.keywords_share:
        count = int(rng.integers(1, min(3, len(record.keywords)) + 1))
        words = [str(word) for word in rng.choice(record.keywords, count, replace=False)]
        caption = " ".join(words if rng.random() < 0.5 else [caption, *words])
    # Asked for last and only where it is wanted: other runs draw the same random numbers as ever.
    if options.short_share and record.short_names and rng.random() < options.short_share:
        caption = _short_caption(record, rng)
    named = rng.random() < options.artist_share
    return with_artist(record._replace(caption=caption)) if named else caption


def _short_caption(record: Record, rng: np.random.Generator) -> str:
    name = record.short_names[int(rng.integers(len(record.short_names)))]
    forms = wordings(name) if record.wordings else ()
    return forms[int(rng.integers(len(forms)))] if forms else name


def varied_captions(
    source: Source, keys: list[tuple[int, int]], options: TextConfig = TEXT
) -> list[str]:
    """Return captions for training for (index, seed) keys: a pure function of them."""
    return [
        vary_caption(source.record(index), np.random.default_rng((seed, 1)), options)
        for index, seed in keys
    ]
