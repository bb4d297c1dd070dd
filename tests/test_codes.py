"""Kept codes: of these images, this tokenizer and this augmentation, or made anew."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from builders import TINY_DALLE, encoded, shades, write_parquet
from safetensors.torch import load_file, save_file
from torch import Tensor

from dalle.codes import EncodedImages, cached_codes, encode_images
from dalle.codes_key import codes_key, images_fingerprint
from dalle_base.data.batches import ImageDataset
from dalle_base.data.config import AugmentConfig
from dalle_base.data.sources.base import Record, Source
from dalle_base.data.sources.folder import FolderSource
from dalle_base.data.sources.hub import DatasetsConfig, DatasetsSource
from dalle_base.data.sources.mixture import MixtureSource
from dalle_base.data.sources.shapes import ShapesSource
from dvae.kinds import tokenizer_class
from dvae.tokenizer import ImageTokenizer

PLAIN = AugmentConfig()


def tokenizer(seed: int = 0) -> ImageTokenizer:
    """A tiny tokenizer with random weights."""
    from dvae.config import DVAEConfig

    config = DVAEConfig(image_size=8, grid=2, codebook_size=50)
    config.network.width, config.network.blocks, config.network.groups = 8, 1, 2
    config.network.stem_stride, config.network.decoder_init = 2, 8
    torch.manual_seed(seed)
    return tokenizer_class("dvae")(config).eval()


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """Eight images from dark to light."""
    folder = tmp_path / "pictures"
    folder.mkdir()
    for number in range(8):
        (folder / f"{number}.png").write_bytes(encoded(30 * number))
    return folder


Keep = Callable[..., EncodedImages]


@pytest.fixture
def keep(tmp_path: Path) -> Keep:
    """Return a folder's codes, kept in one file: always those of encoding it now."""

    def codes(
        folder: Path, seed: int = 0, augmentation: AugmentConfig | None = PLAIN, variants: int = 2
    ) -> EncodedImages:
        images = ImageDataset(FolderSource(str(folder)), 8, augmentation)
        key, model = codes_key(tokenizer(seed), images, variants), tokenizer(seed)
        kept = cached_codes(tmp_path / "codes.safetensors", key, model, images, variants)
        now = encode_images(tokenizer(seed), images, variants)
        assert torch.equal(kept.codes, now.codes)
        assert torch.equal(kept.shown, now.shown)
        return kept

    return codes


def replace_all(folder: Path) -> None:
    for number in range(8):
        (folder / f"{number}.png").write_bytes(encoded(250 - 30 * number))


def remove_and_add(folder: Path) -> None:
    (folder / "0.png").unlink()
    (folder / "9.png").write_bytes(encoded(255))


def swap(folder: Path) -> None:
    (folder / "1.png").rename(folder / "x")
    (folder / "2.png").rename(folder / "1.png")
    (folder / "x").rename(folder / "2.png")


def ruin(folder: Path) -> None:
    (folder / "3.png").write_bytes(b"no image")


def lengthen(folder: Path) -> None:
    (folder / "99.png").write_bytes(encoded(1))


@pytest.mark.parametrize("change", [replace_all, remove_and_add, swap, ruin, lengthen])
def test_codes_of_other_images_are_made_anew(
    pictures: Path, keep: Keep, change: Callable[[Path], None], capsys: pytest.CaptureFixture
) -> None:
    keep(pictures)
    change(pictures)
    capsys.readouterr()
    keep(pictures)
    printed = capsys.readouterr().out
    assert "codes.safetensors is of other images; encoding the images again\n" in printed
    assert printed.count("encoding") == 1
    keep(pictures)
    assert "encoding" not in capsys.readouterr().out


def test_a_folder_that_moved_or_was_copied_keeps_its_codes(
    pictures: Path, keep: Keep, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    keep(pictures)
    shutil.copytree(pictures, tmp_path / "elsewhere", copy_function=shutil.copyfile)
    shutil.rmtree(pictures)
    capsys.readouterr()
    keep(tmp_path / "elsewhere")
    assert "encoding" not in capsys.readouterr().out


def test_another_tokenizer_or_augmentation_is_named(
    pictures: Path, keep: Keep, capsys: pytest.CaptureFixture
) -> None:
    changes: list[tuple[dict[str, Any], str]] = [
        ({}, ""),
        ({"seed": 1}, "another tokenizer"),
        ({"augmentation": AugmentConfig(colour=0.5)}, "another tokenizer and another augmentation"),
        ({"variants": 3}, "another augmentation"),
        ({"augmentation": None}, "another augmentation"),
    ]
    for change, said in changes:
        keep(pictures, **change)
        printed = capsys.readouterr().out
        assert (f"is of {said}; encoding" in printed) == bool(said)


def test_codes_of_an_earlier_version_are_made_anew(
    pictures: Path, keep: Keep, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    """Its key did not tell which images they were of."""
    file = tmp_path / "codes.safetensors"
    keep(pictures)
    wrong = {name: torch.zeros_like(tensor) for name, tensor in load_file(file).items()}
    save_file(wrong, file, metadata={"key": "x"})
    keep(pictures)
    assert "is of an earlier version; encoding" in capsys.readouterr().out


def fingerprint(source: Source, augmentation: AugmentConfig | None = PLAIN) -> str:
    return images_fingerprint(ImageDataset(source, 8, augmentation))


def test_images_of_every_source_have_a_fingerprint_of_their_content(tmp_path: Path) -> None:
    def rows(name: str, count: int, first: int = 0) -> DatasetsSource:
        write_parquet(tmp_path / name, shades(count, first))
        return DatasetsSource(DatasetsConfig(), str(tmp_path / name))

    four, same, others = rows("a.parquet", 4), rows("b.parquet", 4), rows("c.parquet", 4, 9)
    assert fingerprint(four) == fingerprint(same) != fingerprint(others)
    assert fingerprint(ShapesSource("train", 5)) != fingerprint(ShapesSource("test", 5))
    assert fingerprint(ShapesSource("train", 5)) != fingerprint(ShapesSource("train", 6))
    mixed = [MixtureSource({"a": four, "b": others}, {"a": 1, "b": b}) for b in (1, 3)]
    assert fingerprint(mixed[0]) == fingerprint(mixed[0]) != fingerprint(mixed[1])


class Flagged:
    """One image, of which the data says whether it may be flipped."""

    def __init__(self, mirrorable: bool) -> None:
        self.mirrorable = mirrorable

    def __len__(self) -> int:
        return 1

    def record(self, index: int) -> Record:
        return Record("x", encoded(1), "x", mirrorable=self.mirrorable)

    def has_caption(self, index: int) -> bool:
        return True


def test_what_may_be_flipped_counts_where_it_is_flipped() -> None:
    flips = AugmentConfig(flip="mirrorable")
    assert fingerprint(Flagged(True), flips) != fingerprint(Flagged(False), flips)
    assert fingerprint(Flagged(True)) == fingerprint(Flagged(False))


def test_a_run_whose_images_were_replaced_learns_from_the_new_ones(
    image_folder: Path, tmp_path: Path, run_script: Callable[..., tuple[int, str, str]]
) -> None:
    """A second run that shares the file of codes equals one that never saw the old images."""
    import train_dalle
    from dvae.checkpoint import save_tokenizer
    from dvae.kinds import SavedTokenizer

    model = tokenizer()
    save_tokenizer(tmp_path / "tokenizer", model, SavedTokenizer("dvae", model.config))

    def train(name: str, codes: Path) -> dict[str, Tensor]:
        status, printed, error = run_script(
            train_dalle.main,
            *(*TINY_DALLE, "run.updates=2", "codes.mode=cached", "model.rows=2", "model.columns=2"),
            *("model.image_vocab=50", "model.depth=1"),
            *(f"tokenizer={tmp_path / 'tokenizer'}", f"data.path={image_folder}"),
            *(f"codes.file={codes}", f"run.out={tmp_path / name}"),
        )
        assert status == 0, error
        assert ("encoding the images again" in printed) == (name == "after")
        return load_file(tmp_path / name / "checkpoint/model.safetensors")

    train("before", tmp_path / "shared.safetensors")
    first = (image_folder / "00.png").read_bytes()
    for number in range(11):  # each becomes the next one: as many files, of the same names
        later = image_folder / f"{number + 1:02d}.png"
        (image_folder / f"{number:02d}.png").write_bytes(later.read_bytes())
    (image_folder / "11.png").write_bytes(first)
    after = train("after", tmp_path / "shared.safetensors")
    fresh = train("fresh", tmp_path / "fresh.safetensors")
    assert all(torch.equal(after[name], fresh[name]) for name in fresh)
