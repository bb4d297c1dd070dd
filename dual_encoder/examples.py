"""What a dual encoder trains on and is measured on: images with their captions."""

import hashlib
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from dalle_base.common.errors import UserError
from dalle_base.common.images import UnreadableImageError, centre_square, open_image
from dalle_base.data.batches import ImageDataset, Shuffled, shown_batches, some_of
from dalle_base.data.captions import varied_captions, with_artist
from dalle_base.data.config import TextConfig
from dalle_base.data.sources.base import Source
from dalle_base.data.text import TextTokenizer
from dual_encoder.config import DualEncoderConfig
from dual_encoder.text import encode_captions


class Batch(NamedTuple):
    """B pairs of a training update."""

    images: Tensor
    """[B, 3, S, S] in [0, 1]."""
    tokens: Tensor
    """Token ids [B, T]."""
    concepts: Tensor
    """int64 [B], see `concept`."""
    wrong: Tensor
    """Token ids [B, T] of captions that are nearly right (`Confusions`); [0, T] without lists."""


class HeldOut(NamedTuple):
    """Pairs to measure on."""

    images: list[Image.Image]
    """Squares of the size that the model reads."""
    captions: list[str]
    """One for each image, with its artist where there is one."""
    concepts: Tensor
    """int64 [n], see `concept`."""


def concept(caption: str | None) -> int:
    """Return a number that captions share which differ in case and white space alone.

    It is that of the plain caption, before an artist, keywords or BPE dropout vary it.
    """
    words = " ".join((caption or "").lower().split())
    digest = hashlib.blake2b(words.encode("utf-8", "surrogatepass"), digest_size=8).digest()
    return int.from_bytes(digest, "big", signed=True)


class Confusions:
    """Makes captions wrong by a word or two; a table of the words is made once."""

    def __init__(self, lists: list[list[str]]) -> None:
        """`lists` are those of `LossConfig.confusable`."""
        self.lists = lists
        self.entry = {
            word: (group, number)
            for group, entries in enumerate(lists)
            for number, same in enumerate(entries)
            for word in same.split("|")
        }

    def __call__(self, caption: str, rng: np.random.Generator) -> str:
        """Return a caption that is wrong by a word or two, or the same without any in the lists.

        Half of the time, where it can, it exchanges two of its words that are in one list ("a red
        disc on a blue box" for "a blue disc on a red box"); else it replaces one by another of its
        list.
        """
        words = caption.split()
        found = [(at, *self.entry[word]) for at, word in enumerate(words) if word in self.entry]
        pairs = [(a, b) for a in found for b in found if a[1] == b[1] and a[2] < b[2]]
        if pairs and rng.random() < 0.5:
            one, other = pairs[rng.integers(len(pairs))]
            words[one[0]], words[other[0]] = words[other[0]], words[one[0]]
        elif found:
            at, group, number = found[rng.integers(len(found))]
            same_list = self.lists[group]
            other = (number + rng.integers(1, len(same_list))) % len(same_list)
            words[at] = same_list[other].split("|")[0]
        return " ".join(words)


def concepts_of(source: Source, indices: list[int]) -> Tensor:
    """Return the `concept` of some records, int64 [n]."""
    return torch.tensor([concept(source.record(index).caption) for index in indices])


class PairMaker:
    """Turns (index, seed) keys into captions as token ids: a pure function of the keys."""

    def __init__(
        self,
        text_tokenizer: TextTokenizer,
        config: DualEncoderConfig,
        options: TextConfig,
        confusable: list[list[str]],
    ) -> None:
        self.text_tokenizer, self.config = text_tokenizer, config
        self.options = options
        self.confusions = Confusions(confusable) if confusable else None

    def __call__(self, images: Tensor, source: Source, keys: list[tuple[int, int]]) -> Batch:
        """Return images [B, 3, S, S] with the varied captions of their keys."""
        captions = varied_captions(source, keys, self.options)
        seeds = [seed for _, seed in keys]
        tokens = self.encode(captions, seeds)
        wrong = tokens[:0]
        if self.confusions:
            nearly = [
                self.confusions(caption, np.random.default_rng((seed, 2)))
                for caption, seed in zip(captions, seeds, strict=True)
            ]
            wrong = self.encode(nearly, seeds)
        return Batch(images, tokens, concepts_of(source, [index for index, _ in keys]), wrong)

    def encode(self, captions: list[str], seeds: list[int]) -> Tensor:
        """Return captions as token ids [B, T], with the BPE dropout of their seeds."""
        dropout = self.options.bpe_dropout
        return encode_captions(self.text_tokenizer, captions, self.config, dropout, seeds)


def fresh_pairs(
    images: ImageDataset, order: Shuffled, workers: int, pairs: PairMaker
) -> Iterator[Batch]:
    """Yield batches of augmented images with varied captions: pure functions of their keys."""
    for pixels, keys in shown_batches(images, order, workers):
        yield pairs(pixels, images.source, keys)


def held_out_pairs(source: Source, size: int, limit: int) -> HeldOut:
    """Return at most `limit` (0: all) pairs, images as `Ranker.image_features` cuts them.

    Those that cannot be read are left out. Raises `UserError` if none can.
    """
    subset, squares, read = some_of(source, limit), [], []
    for index in range(len(subset)):
        record = subset.record(index)
        try:
            image = open_image(record.image, record.name)
        except UnreadableImageError:
            continue
        squares.append(centre_square(image, size, Image.Resampling.BICUBIC))
        read.append(index)
    if not read:
        raise UserError(f"none of the {len(subset)} held-out images can be read")
    captions = [with_artist(subset.record(index)) for index in read]
    return HeldOut(squares, captions, concepts_of(subset, read))
