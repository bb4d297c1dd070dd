"""The text encoding of a training run: learned from its captions, or that of another model."""

from collections.abc import Iterable, Iterator

from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

from dalle_base.common.errors import UserError
from dalle_base.data.captions import all_with_artist
from dalle_base.data.sources.base import Source
from dalle_base.data.sources.streaming import StreamSource
from dalle_base.data.text import TextTokenizer


def learn_text(source: Source, vocab_size: int, most: int = 50_000) -> TextTokenizer:
    """Learn the text encoding from a source's captions, their wordings, keywords and artists.

    Of a larger source, about `most` records evenly spread are enough to learn from.
    """

    if isinstance(source, StreamSource):
        source = source.sample()

    def corpus() -> Iterator[str]:
        for i in range(0, len(source), max(1, len(source) // most)):
            record = source.record(i)
            yield record.caption or ""
            yield from record.other_captions
            yield " ".join(record.keywords)
            yield from record.wordings
            if record.artist:
                yield from all_with_artist(record)

    return train_text(corpus(), vocab_size)


def train_text(captions: Iterable[str], vocab_size: int = 16384) -> TextTokenizer:
    """Learn an encoding of at most `vocab_size` tokens (256 or more).

    A small corpus may hold fewer pairs worth merging: `vocab_size` then comes out smaller.
    """
    if vocab_size < 256:
        raise UserError(f"vocab_size is {vocab_size}: write at least 256, one for each byte")
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.Sequence(
        [
            normalizers.NFKC(),
            normalizers.Lowercase(),
            normalizers.Replace(Regex(r"\s+"), " "),
            normalizers.Strip(),
        ]
    )
    # The space goes in front, so a word is the same token at a caption's start as within it.
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        min_frequency=2,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(captions, trainer)
    return TextTokenizer(tokenizer)
