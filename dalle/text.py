"""Captions to tokens: byte-level byte-pair encoding (paper section 2.2)."""

import json
import random
from collections.abc import Iterable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple, Self

import torch
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from torch import Tensor

from training.errors import UserError

TEXT = "text.json"
"""The file of a text encoding in a model's folder."""
PADDING = -1
"""Stands where a caption has no token; the model puts that position's padding vector there."""


class Cut(NamedTuple):
    """Where a caption that is too long was cut."""

    tokens: int
    """Tokens of the whole caption."""
    kept: str
    """The text that the model reads, normalised."""
    limit: int
    """Tokens that the model reads."""

    def __str__(self) -> str:
        words = self.kept.split()
        tail = ("... " if len(words) > 4 else "") + " ".join(words[-4:])
        return (
            f'caption of {self.tokens} tokens cut to {self.limit}: the model reads up to "{tail}"'
        )


class TextTokenizer:
    """A byte-pair encoding of lower-cased captions.

    The alphabet is all 256 bytes, so any text can be encoded: a word or an emoji never seen in
    training comes out as more, smaller tokens. Captions are brought to Unicode form NFKC,
    lower-cased, and their white space to single spaces.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        # Merges and pieces, read when dropout first needs them.
        self._ranks: dict[tuple[str, str], int] = {}
        self._word_end = ""
        self._vocabulary: dict[str, int] = {}

    @classmethod
    def train(cls, captions: Iterable[str], vocab_size: int = 16384) -> Self:
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
        return cls(tokenizer)

    @property
    def vocab_size(self) -> int:
        """Tokens in the vocabulary."""
        return self._tokenizer.get_vocab_size()

    def encode(
        self,
        captions: Sequence[str],
        text_length: int,
        dropout: float = 0.0,
        seeds: Sequence[int] = (),
    ) -> Tensor:
        """Captions to ids, [B, text_length], `PADDING` after a caption's end.

        `dropout` is the chance that a merge is passed over (BPE dropout; the paper trains with
        0.1); leave it 0 for evaluation. `seeds`, one for each caption, fix what is passed over.

        A caption that is too long loses its end: ask `cut` where. Raises `UserError` for a caption
        with no text in it, or one that is not valid Unicode.
        """
        if not 0 <= dropout <= 1:
            raise UserError(f"BPE dropout is {dropout}: write a share, 0 to 1")
        ids = torch.full((len(captions), text_length), PADDING)
        for i, (row, caption) in enumerate(zip(ids, captions, strict=True)):
            if dropout:
                tokens = self._tokens_with_dropout(caption, dropout, random.Random(seeds[i]))
            else:
                tokens = self._tokens(caption)
            tokens = tokens[:text_length]
            row[: len(tokens)] = torch.tensor(tokens)
        return ids

    def cut(self, caption: str, text_length: int) -> Cut | None:
        """Where `encode` (without dropout) cuts a caption; None if it fits.

        `print(f"warning: {cut}")` tells the user, with the last words that were kept.
        """
        tokens = self._tokens(caption)
        if len(tokens) <= text_length:
            return None
        return Cut(len(tokens), self.decode(tokens[:text_length]), text_length)

    def decode(self, ids: Tensor | Sequence[int]) -> str:
        """Ids, [T] with or without padding, back to a normalised caption.

        The bytes of a character that was cut in two are left out at the end.
        """
        tokens = [int(i) for i in ids if i != PADDING]
        return self._tokenizer.decode(tokens).removeprefix(" ").rstrip("\N{REPLACEMENT CHARACTER}")

    def save(self, path: str | Path) -> None:
        """Write the encoding to a JSON file of the `tokenizers` library."""
        Path(path).write_text(self._tokenizer.to_str(pretty=True), encoding="utf-8")

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Read what `save` wrote. Raises `UserError` for a missing or damaged file."""
        try:
            return cls(Tokenizer.from_str(Path(path).read_text(encoding="utf-8")))
        except OSError as error:
            raise UserError(f"{path}: {error.strerror}; name a tokenizer's JSON file") from error
        except Exception as error:  # the library raises plain Exception
            raise UserError(f"{path}: damaged, or no tokenizer's JSON file ({error})") from error

    def _tokens(self, caption: str) -> list[int]:
        try:
            # One at a time: the library's batches start threads, which a data worker's fork upsets.
            tokens = self._tokenizer.encode(caption).ids
        except (TypeError, UnicodeError) as error:
            raise UserError(f"caption {caption!r} is not valid Unicode text") from error
        if not tokens:
            raise UserError(f"caption {caption!r} is empty: write what the picture shows")
        return tokens

    def _tokens_with_dropout(self, caption: str, rate: float, rng: random.Random) -> list[int]:
        """BPE dropout (Provilkov et al. 2020, algorithm 1).

        The library has it too, but draws from a source that cannot be seeded; a resumed run could
        then not equal an uninterrupted one.
        """
        self._tokens(caption)  # refuses what cannot be encoded
        if not self._ranks:
            model = json.loads(self._tokenizer.to_str())["model"]
            self._ranks = {(a, b): rank for rank, (a, b) in enumerate(model["merges"])}
            self._word_end = model.get("end_of_word_suffix") or ""
            self._vocabulary = self._tokenizer.get_vocab()
        text = self._tokenizer.normalizer.normalize_str(caption)
        tokens: list[int] = []
        for word, _ in self._tokenizer.pre_tokenizer.pre_tokenize_str(text):
            pieces = [*word[:-1], word[-1] + self._word_end]
            while True:
                found = [
                    (rank, at)
                    for at, pair in enumerate(pairwise(pieces))
                    if (rank := self._ranks.get(pair)) is not None and rng.random() >= rate
                ]
                if not found:
                    break
                _, at = min(found)
                pieces[at : at + 2] = [pieces[at] + pieces[at + 1]]
            tokens += [self._vocabulary[piece] for piece in pieces]
        return tokens
