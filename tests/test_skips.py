"""Unreadable images: named, counted whoever loads them, and too many of them end the run."""

import re
from collections.abc import Callable
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
from builders import TINY_DVAE, encoded

import train_dvae
from dalle_base.common.errors import UserError
from dalle_base.data.batches import ImageDataset, Shuffled, batches
from dalle_base.data.config import AugmentConfig
from dalle_base.data.skips import MIN_TRIED, MOST_NAMED, Skips
from dalle_base.data.sources import read_data_config
from dalle_base.data.sources.base import Record


class Some:
    """Images of which those of some numbers cannot be read."""

    def __init__(self, count: int, bad: set[int]) -> None:
        self.count, self.bad = count, bad

    def __len__(self) -> int:
        return self.count

    def record(self, index: int) -> Record:
        return Record(f"image {index}", b"none" if index in self.bad else encoded(index), None)

    def has_caption(self, index: int) -> bool:
        return False


def read(images: ImageDataset, updates: int, workers: int = 0) -> list[list[tuple[int, bytes]]]:
    """What the first batches show."""
    found = islice(batches(images, Shuffled(len(images), 8, seed=3), workers), updates)
    return [[(example.index, example.pixels.tobytes()) for example in each] for each in found]


@pytest.mark.parametrize("workers", [1, 2])
def test_batches_and_what_is_said_are_the_same_with_any_number_of_workers(
    workers: int, capsys: pytest.CaptureFixture
) -> None:
    source, seen, said = Some(30, {4, 17}), [], []
    keys = (key for batch in islice(Shuffled(30, 8, seed=3), 9) for key in batch)
    asked_for_bad = sum(index in source.bad for index, _ in keys)
    assert asked_for_bad > 2
    for number in (0, workers):
        images = ImageDataset(source, 8, AugmentConfig(), max_skipped=0.3)
        seen.append(read(images, 9, number))
        said.append(re.sub("0x[0-9a-f]+", "", capsys.readouterr().out))
        assert images.skipped == {"image 4", "image 17"}
        assert (images.skips.tried, images.skips.failed) == (72, asked_for_bad)
    assert seen[0] == seen[1]
    assert said[0] == said[1]
    assert said[0].count("skipped an unreadable image") == 2
    assert "(2 so far): image 4: " in said[0]


@pytest.mark.parametrize("workers", [0, 2])
def test_too_many_unreadable_images_end_the_reading(workers: int) -> None:
    images = ImageDataset(Some(40, set(range(20))), 8, None, max_skipped=0.25)
    with pytest.raises(UserError) as error:
        read(images, 20, workers)
    message = str(error.value)
    assert "\n" not in message
    assert f"of {images.skips.tried} images tried cannot be read (" in message
    assert message.endswith("mend or remove them, or allow more: data.max_skipped is 0.25")
    assert MIN_TRIED <= images.skips.tried < 60
    read(ImageDataset(Some(40, set(range(20))), 8, None, max_skipped=0.5), 20, workers)


@pytest.mark.parametrize("workers", [0, 2])
def test_nothing_readable_is_one_line_from_a_worker_too(
    workers: int, capsys: pytest.CaptureFixture
) -> None:
    with pytest.raises(UserError) as error:
        read(ImageDataset(Some(9, set(range(9))), 8, None), 1, workers)
    assert str(error.value) == "none of the 9 images can be read (see the lines above)"
    assert capsys.readouterr().out.count("skipped an unreadable image") == 9


def test_bad_images_side_by_side_count_once_each() -> None:
    """A copy that broke off: each of a hundred at the end stands for itself, not for its row."""
    images = ImageDataset(Some(2000, set(range(1900, 2000))), 8, None)
    for index in range(0, 2000, 5):
        images[index, 0]
    assert (images.skips.tried, images.skips.failed) == (400, 20)


def test_luck_in_the_order_ends_no_run_and_a_share_above_the_limit_does() -> None:
    rng = np.random.default_rng(0)
    for share, ends in ((0.05, False), (0.09, False), (0.2, True), (0.5, True)):
        for _ in range(20):
            skips = Skips(0.1)
            try:
                for _ in range(2000):
                    skips.count(rng.random() < share, "x")
            except UserError:
                assert ends
            else:
                assert not ends


def test_none_may_be_skipped_where_the_share_is_0() -> None:
    skips = Skips(0)
    skips.count(False)
    with pytest.raises(UserError, match=r"1 of 2 images tried cannot be read \(50%, the last: x\)"):
        skips.count(True, "x")


def test_endlessly_many_are_not_all_named(capsys: pytest.CaptureFixture) -> None:
    skips = Skips(1)
    for number in range(2 * MOST_NAMED):
        skips.name(str(number), f"{number}: broken\nfile")
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == MOST_NAMED + 1
    assert lines[0] == "skipped an unreadable image (1 so far): 0: broken?file"
    assert lines[-1] == "further unreadable images are counted and not named"
    assert len(skips.names) == 2 * MOST_NAMED


@pytest.mark.parametrize("share", ["-0.1", "1.5", "nan"])
def test_what_is_no_share_is_refused(share: str) -> None:
    for source in ("folder", "shapes", "mixture", "stream"):
        with pytest.raises(UserError, match=r"data\.max_skipped is .*: write a number from 0 to 1"):
            read_data_config({"source": source, "max_skipped": float(share)}, "test")


def test_a_run_ends_with_one_line_and_goes_on_when_more_are_allowed(
    image_folder: Path, tmp_path: Path, run_script: Callable[..., tuple[int, str, str]]
) -> None:
    for path in sorted(image_folder.glob("*.png"))[:5]:
        path.write_bytes(b"no image")
    arguments = [*TINY_DVAE, f"data.path={image_folder}", f"run.out={tmp_path / 'run'}"]
    status, _, error = run_script(train_dvae.main, *arguments, "run.updates=20")
    assert status == 2
    assert "images tried cannot be read" in error
    assert "data.max_skipped is 0.1" in error
    assert error.splitlines()[-1].startswith("error: ")
    status, _, error = run_script(
        train_dvae.main, *arguments, "run.updates=20", "data.max_skipped=0.6"
    )
    assert status == 0, error
