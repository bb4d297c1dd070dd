"""Captions against the length of text that a model reads: which are cut, which are empty."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from dalle_base.common.errors import UserError
from dalle_base.data.captions import with_artist
from dalle_base.data.sources.base import Record, Source
from dalle_base.data.text import TextTokenizer

MOST = 20_000
"""Records, evenly spread, that are looked at in a larger source."""


class Lengths(NamedTuple):
    """Tokens of captions, each with its artist where the data has one."""

    tokens: list[int]
    """Of each caption; 0 where it has no text."""
    records: int
    """Images that were looked at."""
    total: int
    """Images in the source; 0 where nobody knows."""

    def cut(self, limit: int) -> int:
        """How many captions have more tokens than `limit`."""
        return sum(count > limit for count in self.tokens)

    def line(self, limit: int, key: str = "", extra: int = 0) -> str:
        """Return a line that says how many are cut, and what reads them whole.

        Args:
            limit: tokens of a caption that the model reads.
            key: of the setting that says so, if there is any.
            extra: tokens that this setting counts besides.
        """
        of = f"{len(self.tokens)} captions"
        if self.records < self.total or not self.total:
            of += " looked at"
        cut = self.cut(limit)
        line = f"{cut} of {of} are cut at {limit} tokens"
        if cut and key:
            line += f" ({key}={max(self.tokens) + extra} reads all of them whole)"
        return line


def spread(source: Source, most: int = MOST) -> tuple[list[Record], int]:
    """Return at most `most` records, evenly spread, and how many there are (0: nobody knows).

    Of a stream they are those that it shows for a sample.
    """
    sample = getattr(source, "sample", None)
    if sample is not None:
        source = sample()
    count = len(source)
    step = max(1, -(-count // most))
    records = [source.record(index) for index in range(0, count, step)]
    return records, 0 if sample is not None else count


def caption_lengths(source: Source, text_tokenizer: TextTokenizer, most: int = MOST) -> Lengths:
    """Return the lengths of a source's captions, or of some where there are many."""
    records, total = spread(source, most)
    tokens = [_tokens(text_tokenizer, each) for record in records for each in _full(record)]
    return Lengths(tokens, len(records), total)


def _full(record: Record) -> Iterator[str]:
    for caption in record.captions:
        yield with_artist(record._replace(caption=caption)) if caption.strip() else ""


def _tokens(text_tokenizer: TextTokenizer, caption: str) -> int:
    try:
        return len(text_tokenizer.tokens(caption))
    except UserError:  # no text in it, or none that can be encoded
        return 0


def quantiles(numbers: Sequence[int], shares: Sequence[float]) -> list[int]:
    """Return the numbers below or at which these shares of all are. Needs at least one."""
    ordered = sorted(numbers)
    last = len(ordered) - 1
    return [ordered[round(share * last)] for share in shares]
