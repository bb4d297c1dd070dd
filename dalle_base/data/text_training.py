"""The text encoding of a training run: learned from its captions, or that of another model."""

from collections.abc import Iterator

from dalle_base.data.captions import with_artist
from dalle_base.data.sources.base import Source
from dalle_base.data.text import TextTokenizer


def learn_text(source: Source, vocab_size: int, most: int = 50_000) -> TextTokenizer:
    """Learn the text encoding from a source's captions, keywords and artists.

    Of a larger source, about `most` records evenly spread are enough to learn from.
    """

    def corpus() -> Iterator[str]:
        for i in range(0, len(source), max(1, len(source) // most)):
            record = source.record(i)
            yield record.caption or ""
            yield " ".join(record.keywords)
            if record.artist:
                yield with_artist(record)

    return TextTokenizer.train(corpus(), vocab_size)
