"""What a dual encoder trains on and is measured on: pictures with their captions."""

import hashlib
from collections.abc import Iterator
from typing import NamedTuple

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
) -> Iterator[Batch]:
    """Yield batches of augmented pictures with varied captions: pure functions of their keys."""
    for images, keys in shown_batches(pictures, order, workers):
        captions = varied_captions(pictures.source, keys)
        words = encode_captions(text, captions, config, bpe_dropout, [seed for _, seed in keys])
        yield Batch(images, words, concepts_of(pictures.source, [index for index, _ in keys]))


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
