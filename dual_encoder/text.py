"""Captions as the text tower reads them: a start token, the text, an end token, padding."""

from collections.abc import Sequence

import torch
from torch import Tensor

from dalle_base.common.errors import UserError
from dalle_base.data.text import PADDING, TextTokenizer
from dual_encoder.config import DualEncoderConfig

SPECIAL = 2
"""Tokens behind a text encoding's own: the start and the end of a text."""


def check_vocabulary(text_tokenizer: TextTokenizer, config: DualEncoderConfig) -> None:
    """Raise `UserError` if the model has fewer tokens than the encoding and its two ends."""
    if text_tokenizer.vocab_size + SPECIAL > config.vocab_size:
        raise UserError(
            f"model.vocab_size={config.vocab_size} is too small: the text encoding has "
            f"{text_tokenizer.vocab_size} tokens, and a start and an end are needed besides"
        )


def encode_captions(
    text_tokenizer: TextTokenizer,
    captions: Sequence[str],
    config: DualEncoderConfig,
    dropout: float = 0.0,
    seeds: Sequence[int] = (),
) -> Tensor:
    """Captions to ids [B, text_length], `PADDING` behind each end token.

    A caption that is too long loses its end but never its end token. `dropout` and `seeds` are
    those of `TextTokenizer.encode`. Raises `UserError` for a caption with no text in it.
    """
    length, vocabulary = config.text_length, config.vocab_size
    tokens = text_tokenizer.encode(captions, length - SPECIAL, dropout, seeds)
    ids = torch.full((len(captions), length), PADDING)
    ids[:, 0] = vocabulary - 2
    ids[:, 1:-1] = tokens
    count = (tokens != PADDING).sum(dim=1, keepdim=True)
    return ids.scatter_(1, count + 1, vocabulary - 1)
