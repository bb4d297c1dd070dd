"""What stage two trains on: captions as tokens, pictures as codes, batch by batch."""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from dalle.codes import cached_codes, encode_pictures
from dalle.text import TEXT, TextTokenizer
from dvae.checkpoint import tokenizer_fingerprint
from dvae.tokenizer import ImageTokenizer
from training.config import to_yaml
from training.data import (
    DataConfig,
    Pictures,
    Shuffled,
    Source,
    shown_batches,
    some_of,
    varied_captions,
    with_artist,
)
from training.errors import UserError
from training.run import Run

MODES = ("on_the_fly", "cached")


@dataclass
class TextConfig:
    """The text encoding while training."""

    bpe_dropout: float = 0.1
    """Share of merges left out (BPE dropout)."""


@dataclass
class CodesConfig:
    """Where the image codes of a training batch come from."""

    mode: str = "on_the_fly"
    """on_the_fly (encode each batch's augmented pictures, the paper) or cached (encode once)."""
    variants: int = 8
    """Augmented encodings kept of each picture, where cached."""
    file: str = ""
    """Where they are kept; empty: in the run's folder."""

    def validate(self) -> None:
        """Raise `UserError` on impossible values."""
        if self.mode not in MODES:
            raise UserError(f"codes.mode is {self.mode!r}; use one of {', '.join(MODES)}")
        if self.variants < 1:
            raise UserError("codes.variants must be at least 1")


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


def run_text(run: Run, source: Source, vocab_size: int, init: str) -> TextTokenizer:
    """Return a run's text encoding: that of the folder `init`, or learned from the captions."""
    if init:
        return TextTokenizer.load(Path(init) / TEXT)
    path = run.folder / TEXT
    with run.accelerator.main_process_first():
        if not path.exists():
            learn_text(source, vocab_size).save(path)
    return TextTokenizer.load(path)


class Captions:
    """A source's captions as tokens, varied and with BPE dropout, as training reads them."""

    def __init__(
        self, source: Source, text: TextTokenizer, text_length: int, bpe_dropout: float
    ) -> None:
        self.source, self.text = source, text
        self.text_length, self.bpe_dropout = text_length, bpe_dropout

    def __call__(self, keys: list[tuple[int, int]]) -> Tensor:
        """Return the tokens [B, T] for (index, seed) keys: a pure function of them."""
        captions = varied_captions(self.source, keys)
        seeds = [seed for _, seed in keys]
        return self.text.encode(captions, self.text_length, self.bpe_dropout, seeds)


def fresh_examples(
    captions: Captions, tokenizer: ImageTokenizer, pictures: Pictures, order: Shuffled, workers: int
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield text [B, T] and codes [B, RC], each batch augmented and encoded as it is needed."""
    device = next(tokenizer.parameters()).device
    for images, shown in shown_batches(pictures, order, workers):
        yield captions(shown), tokenizer.encode(images.to(device)).flatten(1)


def cached_examples(
    captions: Captions,
    tokenizer: ImageTokenizer,
    pictures: Pictures,
    order: Shuffled,
    config: CodesConfig,
    data: DataConfig,
    folder: Path,
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield text [B, T] and codes [B, RC] from encodings made once and kept in a file."""
    parts = [tokenizer_fingerprint(tokenizer), str(config.variants), str(len(pictures))]
    key = hashlib.sha256("\n".join([*parts, to_yaml(data)]).encode()).hexdigest()
    path = Path(config.file) if config.file else folder / "codes.safetensors"
    codes, shown = cached_codes(path, key, tokenizer, pictures, config.variants)
    for keys in order:
        variants = [seed % config.variants for _, seed in keys]
        yield (
            captions([(int(shown[index]), seed) for index, seed in keys]),
            codes[[index for index, _ in keys], variants].long(),
        )


def held_out_examples(
    source: Source, text: TextTokenizer, text_length: int, tokenizer: ImageTokenizer, limit: int
) -> tuple[Tensor, Tensor]:
    """Return text [n, T] and codes [n, RC] of at most `limit` (0: all) pictures, unaugmented."""
    subset = some_of(source, limit)
    codes, shown = encode_pictures(tokenizer, Pictures(subset, tokenizer.image_size, None))
    captions = [with_artist(subset.record(i)) for i in shown.tolist()]
    return text.encode(captions, text_length), codes[:, 0].long()
