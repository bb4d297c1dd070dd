"""BPE dropout (Provilkov et al. 2020, arXiv 1910.13267, algorithm 1), which training uses."""

import json
import random
from itertools import pairwise

from tokenizers import Tokenizer


class BPEDropout:
    """Encodes captions with some merges passed over.

    The `tokenizers` library has it too, but takes random numbers that cannot be seeded; a resumed
    run could then not equal an uninterrupted one.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        model = json.loads(tokenizer.to_str())["model"]
        self.tokenizer = tokenizer
        self.ranks = {(a, b): rank for rank, (a, b) in enumerate(model["merges"])}
        self.word_end = model.get("end_of_word_suffix") or ""
        self.vocabulary: dict[str, int] = tokenizer.get_vocab()

    def tokens(self, caption: str, rate: float, rng: random.Random) -> list[int]:
        """Token ids of a caption in which each merge is passed over with chance `rate`."""
        text = self.tokenizer.normalizer.normalize_str(caption)
        tokens: list[int] = []
        for word, _ in self.tokenizer.pre_tokenizer.pre_tokenize_str(text):
            pieces = [*word[:-1], word[-1] + self.word_end]
            while True:
                found = [
                    (rank, at)
                    for at, pair in enumerate(pairwise(pieces))
                    if (rank := self.ranks.get(pair)) is not None and rng.random() >= rate
                ]
                if not found:
                    break
                _, at = min(found)
                pieces[at : at + 2] = [pieces[at] + pieces[at + 1]]
            tokens += [self.vocabulary[piece] for piece in pieces]
        return tokens
