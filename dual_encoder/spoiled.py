"""Right and wrong images of a caption, such as a text-to-image model's samples that were checked.

A reranker chooses among samples. Trained on real images alone, it has never had to tell a sample
that is nearly right from one that is right.
"""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from dalle_base.common.errors import UserError
from dalle_base.common.images import (
    UnreadableImageError,
    centre_square,
    open_image,
    to_array,
    to_tensor,
)
from dalle_base.data.batches import Shuffled
from dual_encoder.config import SpoiledConfig
from dual_encoder.examples import PairMaker, concept

COLUMNS = ("image", "caption", "exact")


class Group(NamedTuple):
    """A caption with its images, as files' bytes: at least one right, at least one wrong."""

    caption: str
    right: list[bytes]
    wrong: list[bytes]


class SpoiledBatch(NamedTuple):
    """The G groups of a training update, with n images in all."""

    images: Tensor
    """[n, 3, S, S] in [0, 1]."""
    tokens: Tensor
    """Token ids [G, T] of the captions."""
    members: Tensor
    """int64 [G, 1 + W]: which images are a group's, the right one first; -1: fewer than W wrong."""


def read_groups(path: str) -> list[Group]:
    """Return the captions of a parquet file that have right and wrong images, in its order.

    The file has the columns image (a file's bytes, also as `datasets` stores them), caption, and
    exact: whether the image shows all of the caption. Captions that `concept` finds equal are one.

    Raises:
        UserError: no such file, another one, an image that cannot be read, or no such caption.
    """
    every: dict[int, Group] = {}
    counts: dict[bool, int] = defaultdict(int)
    for number, row in enumerate(_rows(path)):
        cell, caption, exact = (row[name] for name in COLUMNS)
        content = cell["bytes"] if isinstance(cell, dict) else cell
        if not (content and isinstance(caption, str) and caption.strip() and exact is not None):
            raise UserError(f"loss.spoiled.path: {path} row {number} has an empty cell: remove it")
        try:
            open_image(content, f"{path} row {number}")
        except UnreadableImageError as error:
            raise UserError(f"loss.spoiled.path: unreadable image: {error}") from None
        group = every.setdefault(concept(caption), Group(caption, [], []))
        (group.right if exact else group.wrong).append(content)
        counts[exact] += 1
    groups = [group for group in every.values() if group.right and group.wrong]
    if not groups:
        raise UserError(
            f"loss.spoiled.path: no caption of {path} has both right and wrong images "
            f"({counts[True]} are right, {counts[False]} wrong): sample more of each caption"
        )
    return groups


def split_groups(groups: Sequence[Group], share: float) -> tuple[list[Group], list[Group]]:
    """Return the groups to train on, and the `share` of them to measure on, at least one.

    Which these are depends on their captions alone. Raises `UserError` for fewer than two groups.
    """
    if len(groups) < 2:
        raise UserError(
            "loss.spoiled.path: a single caption has both right and wrong images, and one to train "
            "on and one to measure on are needed: sample more captions"
        )
    order = sorted(groups, key=lambda group: concept(group.caption))
    count = min(max(1, round(share * len(order))), len(order) - 1)
    return order[count:], order[:count]


def squares(contents: Sequence[bytes], size: int) -> list[Image.Image]:
    """Return the images as `Ranker.image_features` cuts them."""
    return [centre_square(open_image(each), size, Image.Resampling.BICUBIC) for each in contents]


class SpoiledMaker:
    """Turns (index, seed) keys into batches of groups: a pure function of the keys."""

    def __init__(self, groups: Sequence[Group], pairs: PairMaker, config: SpoiledConfig) -> None:
        self.groups, self.pairs, self.config = groups, pairs, config

    def __call__(self, keys: Sequence[tuple[int, int]]) -> SpoiledBatch:
        """Return each key's group: one of its right images, at most `config.wrong` wrong ones."""
        contents: list[bytes] = []
        members = torch.full((len(keys), 1 + self.config.wrong), -1)
        for row, (index, seed) in enumerate(keys):
            group, rng = self.groups[index], np.random.default_rng((seed, 3))
            count = min(self.config.wrong, len(group.wrong))
            chosen = [group.right[rng.integers(len(group.right))]]
            chosen += [group.wrong[i] for i in rng.permutation(len(group.wrong))[:count]]
            members[row, : len(chosen)] = torch.arange(len(chosen)) + len(contents)
            contents += chosen
        images = squares(contents, self.pairs.config.image_size)
        captions = [self.groups[index].caption for index, _ in keys]
        tokens = self.pairs.encode(captions, [seed for _, seed in keys])
        return SpoiledBatch(to_tensor([to_array(image) for image in images]), tokens, members)


def fresh_groups(order: Shuffled, make: SpoiledMaker) -> Iterator[SpoiledBatch]:
    """Yield each update's batch of `config.groups` groups.

    `order` is that of the run over its groups; it has the run's seed, start and processes.
    """
    own = Shuffled(
        order.length, make.config.groups, order.seed, order.start, order.rank, order.world
    )
    return map(make, own)


def _rows(path: str) -> list[dict]:
    import pyarrow as pa  # takes a while to import, and most runs have no use for it
    import pyarrow.parquet as pq

    if not Path(path).is_file():
        raise UserError(f"loss.spoiled.path: there is no file {path}")
    try:
        file = pq.ParquetFile(path)
        names = file.schema_arrow.names
        missing = [name for name in COLUMNS if name not in names]
        if missing:
            raise UserError(
                f"loss.spoiled.path: {path} has no column {', '.join(missing)}; it has "
                f"{', '.join(names)}"
            )
        if not pa.types.is_boolean(file.schema_arrow.field("exact").type):
            raise UserError(f"loss.spoiled.path: the column exact of {path} must be true or false")
        return file.read(columns=[*COLUMNS]).to_pylist()
    except (pa.ArrowException, OSError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise UserError(f"loss.spoiled.path: {path} is no parquet file: {reason}") from None
