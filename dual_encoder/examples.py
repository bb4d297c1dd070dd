"""What a dual encoder trains on and is measured on: pictures with their captions."""

import hashlib
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from dalle.text import TextTokenizer
from dual_encoder.model import DualEncoderConfig
from dual_encoder.text import encode_captions
from training.data import (
    Pictures,
    Shuffled,
    Source,
    shown_batches,
    some_of,
    varied_captions,
    with_artist,
)
from training.errors import UserError
from training.pictures import UnreadablePictureError, centre_square, open_picture


class Batch(NamedTuple):
    """B pairs of a training update."""

    images: Tensor
    """[B, 3, S, S] in [0, 1]."""
    text: Tensor
    """Token ids [B, T]."""
    concepts: Tensor
    """int64 [B], see `concept`."""
    wrong: Tensor
    """Token ids [B, T] of captions that are nearly right, see `confused`; [0, T] without lists."""


class HeldOut(NamedTuple):
    """Pairs to measure on."""

    pictures: list[Image.Image]
    """Squares of the size that the model reads."""
    captions: list[str]
    """One for each picture, with its artist where there is one."""
    concepts: Tensor
    """int64 [n], see `concept`."""


def concept(caption: str | None) -> int:
    """Return a number that captions share which differ in case and white space alone.

    It is that of the plain caption, before an artist, keywords or BPE dropout vary it.
    """
    words = " ".join((caption or "").lower().split())
    digest = hashlib.blake2b(words.encode("utf-8", "surrogatepass"), digest_size=8).digest()
    return int.from_bytes(digest, "big", signed=True)


def confused(caption: str, lists: list[list[str]], rng: np.random.Generator) -> str:
    """Return a caption that is wrong by a word or two of the `lists`, or the same without any.

    Half of the time, where it can, it exchanges two of its words that are in one list ("a red disc
    on a blue box" for "a blue disc on a red box"); else it replaces one by another of its list.
    """
    words = caption.split()
    entry = {
        word: (group, number)
        for group, entries in enumerate(lists)
        for number, same in enumerate(entries)
        for word in same.split("|")
    }
    found = [(at, *entry[word]) for at, word in enumerate(words) if word in entry]
    pairs = [(a, b) for a in found for b in found if a[1] == b[1] and a[2] < b[2]]
    if pairs and rng.random() < 0.5:
        one, other = pairs[rng.integers(len(pairs))]
        words[one[0]], words[other[0]] = words[other[0]], words[one[0]]
    elif found:
        at, group, number = found[rng.integers(len(found))]
        other = (number + rng.integers(1, len(lists[group]))) % len(lists[group])
        words[at] = lists[group][other].split("|")[0]
    return " ".join(words)


def concepts_of(source: Source, indices: list[int]) -> Tensor:
    """Return the `concept` of some records, int64 [n]."""
    return torch.tensor([concept(source.record(index).caption) for index in indices])


def fresh_pairs(
    pictures: Pictures,
    order: Shuffled,
    workers: int,
    text: TextTokenizer,
    config: DualEncoderConfig,
    bpe_dropout: float,
    confusable: list[list[str]],
) -> Iterator[Batch]:
    """Yield batches of augmented pictures with varied captions: pure functions of their keys."""
    for images, keys in shown_batches(pictures, order, workers):
        captions = varied_captions(pictures.source, keys)
        seeds = [seed for _, seed in keys]
        words = encode_captions(text, captions, config, bpe_dropout, seeds)
        concepts = concepts_of(pictures.source, [index for index, _ in keys])
        wrong = words[:0]
        if confusable:
            nearly = [
                confused(caption, confusable, np.random.default_rng((seed, 2)))
                for caption, seed in zip(captions, seeds, strict=True)
            ]
            wrong = encode_captions(text, nearly, config, bpe_dropout, seeds)
        yield Batch(images, words, concepts, wrong)


def held_out_pairs(source: Source, size: int, limit: int) -> HeldOut:
    """Return at most `limit` (0: all) pairs, pictures as `Ranker.image_features` cuts them.

    Pictures that cannot be read are left out. Raises `UserError` if none can.
    """
    subset, squares, read = some_of(source, limit), [], []
    for index in range(len(subset)):
        record = subset.record(index)
        try:
            picture = open_picture(record.image, record.name)
        except UnreadablePictureError:
            continue
        squares.append(centre_square(picture, size, Image.Resampling.BICUBIC))
        read.append(index)
    if not read:
        raise UserError(f"none of the {len(subset)} held-out pictures can be read")
    captions = [with_artist(subset.record(index)) for index in read]
    return HeldOut(squares, captions, concepts_of(subset, read))
