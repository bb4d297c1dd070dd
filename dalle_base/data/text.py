"""Captions to token ids: byte-level byte-pair encoding (section 2.2)."""

import random
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple, Self

import torch
from tokenizers import Tokenizer
from torch import Tensor

from dalle_base.common.errors import UserError
from dalle_base.common.files import write_text
from dalle_base.data.bpe_dropout import BPEDropout

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
        self._dropout: BPEDropout | None = None  # made when it is first asked for

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
        """Captions to token ids, [B, text_length], `PADDING` after a caption's end.

        A caption that is too long loses its end: ask `cut` where.

        Args:
            captions: B texts.
            text_length: positions; longer captions are cut, shorter ones padded.
            dropout: chance that a merge is passed over (BPE dropout; the paper trains with 0.1).
                Leave it 0 for evaluation.
            seeds: one for each caption, which fixes what is passed over.

        Raises:
            UserError: a caption with no text in it, or one that is not valid Unicode.
        """
        if not 0 <= dropout <= 1:
            raise UserError(f"BPE dropout is {dropout}: write a share, 0 to 1")
        ids = torch.full((len(captions), text_length), PADDING)
        for i, (row, caption) in enumerate(zip(ids, captions, strict=True)):
            tokens = self.tokens(caption)
            if dropout:
                self._dropout = self._dropout or BPEDropout(self._tokenizer)
                tokens = self._dropout.tokens(caption, dropout, random.Random(seeds[i]))
            tokens = tokens[:text_length]
            row[: len(tokens)] = torch.tensor(tokens)
        return ids

    def cut(self, caption: str, text_length: int) -> Cut | None:
        """Where `encode` (without dropout) cuts a caption; None if it fits.

        `print(f"warning: {cut}")` tells the user, with the last words that were kept.
        """
        tokens = self.tokens(caption)
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
        """Write the encoding to a JSON file of the `tokenizers` library. Raises `UserError`."""
        write_text(Path(path), self._tokenizer.to_str(pretty=True))

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Read what `save` wrote. Raises `UserError` for a missing or damaged file."""
        try:
            return cls(Tokenizer.from_str(Path(path).read_text(encoding="utf-8")))
        except OSError as error:
            raise UserError(f"{path}: {error.strerror}; name a tokenizer's JSON file") from error
        except Exception as error:  # the library raises plain Exception
            raise UserError(f"{path}: damaged, or no tokenizer's JSON file ({error})") from error

    def tokens(self, caption: str) -> list[int]:
        """A caption's token ids, all of them. Raises `UserError` as `encode` does."""
        try:
            # One at a time: the library's batches start threads, which a data worker's fork upsets.
            tokens = self._tokenizer.encode(caption).ids
        except (TypeError, UnicodeError) as error:
            raise UserError(f"caption {caption!r} is not valid Unicode text") from error
        if not tokens:
            raise UserError(f"caption {caption!r} is empty: write what the image shows")
        return tokens
