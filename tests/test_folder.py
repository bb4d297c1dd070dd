"""Folders as people have them: what in them is an image, and what is not."""

import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dalle_base.common.errors import UserError
from dalle_base.common.images import open_image
from dalle_base.data.augment import augment
from dalle_base.data.captions import varied_captions, vary_caption
from dalle_base.data.config import AugmentConfig
from dalle_base.data.image_files import images_under
from dalle_base.data.passed_over import MOST_REASONS, PassedOver, passed_over_by
from dalle_base.data.sources import open_sources
from dalle_base.data.sources.base import Joined, Record, Subset
from dalle_base.data.sources.captioned import captioned_pair
from dalle_base.data.sources.folder import FolderConfig, FolderSource
from dalle_base.data.sources.mixture import MixtureSource
from dalle_base.data.sources.shapes import ShapesConfig
from dalle_base.data.text_training import learn_text

PIXEL = Image.new("RGB", (4, 4), "red")


def put(folder: Path, *names: str, kind: str = "png") -> None:
    """Write an image under each name, whatever its suffix."""
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        PIXEL.save(folder / name, kind)


def names_in(folder: Path) -> list[str]:
    return [path.relative_to(folder).as_posix() for path in FolderSource(str(folder)).files]


def test_hidden_files_and_what_systems_leave_are_no_data(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    put(tmp_path, "a.png", "deep/b.JPG", "._a.png", ".ipynb_checkpoints/a-checkpoint.png")
    put(tmp_path, ".git/x.png", "__MACOSX/a.png", "Thumbs.db", ".DS_Store")
    assert names_in(tmp_path) == ["a.png", "deep/b.JPG"]
    source = FolderSource(str(tmp_path))
    assert dict(source.passed_over.counts) == {"hidden": 4}
    assert "passed over under" in (said := capsys.readouterr().out.splitlines()[-1])
    assert "4 hidden, the first: ._a.png" in said
    assert [path.name for path in images_under(tmp_path)] == ["a.png", "b.JPG"]


def test_a_folder_that_is_itself_hidden_is_read(tmp_path: Path) -> None:
    put(tmp_path / ".cache", "a.png")
    assert names_in(tmp_path / ".cache") == ["a.png"]


def test_every_usual_suffix_is_read_and_others_are_counted(tmp_path: Path) -> None:
    for suffix in ("png", "jpg", "jpeg", "jfif", "webp", "gif", "bmp", "tif", "TIFF", "avif"):
        put(tmp_path, f"x.{suffix}")
    put(tmp_path, "y.heic", "z.HEIC", "noname")
    source = FolderSource(str(tmp_path))
    assert len(source) == 10
    assert dict(source.passed_over.counts) == {".heic": 2, "without a suffix": 1}
    assert source.passed_over.first[".heic"] == "y.heic"


def test_a_runs_own_output_inside_the_data_is_no_data(tmp_path: Path) -> None:
    put(tmp_path, "a.png", "runs/mine/reconstructions/0001.png", "runs/mine/other.png")
    put(tmp_path, "out/a-cat/grid.png", "out/a-cat/0-000.png", "models/m/x.png")
    (tmp_path / "runs/mine/metrics.jsonl").write_text("{}")
    (tmp_path / "out/a-cat/samples.json").write_text("{}")
    for name in ("model.safetensors", "config.yaml"):
        (tmp_path / "models/m" / name).write_text("")
    assert names_in(tmp_path) == ["a.png"]
    # Also where run.out is the data folder: the images beside the run's folders are the user's.
    (tmp_path / "metrics.jsonl").write_text("{}")
    put(tmp_path, "samples/0001.png", "reconstructions/0001.png")
    source = FolderSource(str(tmp_path))
    assert [path.name for path in source.files] == ["a.png"]
    counts = source.passed_over.counts
    assert counts["training runs"] == counts["models"] == counts["folders of samples"] == 1
    assert counts["folders of a training run"] == 2


def test_folders_of_such_names_without_a_run_are_data(tmp_path: Path) -> None:
    put(tmp_path, "samples/a.png", "model/b.png", "checkpoint/c.png")
    assert len(names_in(tmp_path)) == 3
    assert len(names_in(tmp_path / "samples")) == 1


def test_links_to_folders_are_followed_once(tmp_path: Path) -> None:
    data, elsewhere = tmp_path / "data", tmp_path / "elsewhere"
    put(data, "real/a.png")
    put(elsewhere, "b.png", "deep/c.png")
    put(tmp_path, "not-data.png")
    (data / "linked").symlink_to(elsewhere)
    (data / "again").symlink_to(data / "real")
    (data / "real" / "loop").symlink_to(data)
    (data / "up").symlink_to(tmp_path)
    (elsewhere / "deep" / "back").symlink_to(elsewhere)
    (data / "itself").symlink_to(data / "itself")
    (data / "gone.png").symlink_to(tmp_path / "gone.png")
    (data / "file.png").symlink_to(elsewhere / "b.png")
    assert names_in(data) == ["file.png", "linked/b.png", "linked/deep/c.png", "real/a.png"]
    counts = FolderSource(str(data)).passed_over.counts
    assert counts["links to a folder above"] == 2
    assert counts["broken links"] == 2


def test_pipes_and_folders_named_like_images_are_no_images(tmp_path: Path) -> None:
    put(tmp_path, "a.png", "folder.png/b.png")
    os.mkfifo(tmp_path / "pipe.png")
    os.mkfifo(tmp_path / "a.txt")
    os.mkfifo(tmp_path / "metadata.csv")
    source = FolderSource(str(tmp_path))
    assert [path.name for path in source.files] == ["a.png", "b.png"]
    assert source.passed_over.counts["no regular files"] == 3
    assert not source.has_caption(0)


def test_what_was_passed_over_is_one_line() -> None:
    passed_over = PassedOver()
    assert not passed_over
    for number in range(MOST_REASONS + 2):
        passed_over.add(f".k{number}", f"x\n{number}", count=100 - number)
    line = str(passed_over)
    assert line.startswith("100 .k0, the first: x?0; 99 .k1, ")
    assert line.endswith("; 183 others")
    assert "\n" not in line
    other = PassedOver()
    other.add(".k0", "y")
    passed_over.update(other)
    assert (passed_over.counts[".k0"], passed_over.first[".k0"]) == (101, "x\n0")


def test_what_parts_of_sources_passed_over_is_counted_once(tmp_path: Path) -> None:
    for name in ("a", "b"):
        put(tmp_path / name, "x.png", "y.heic", "z.png")
    parts = [FolderSource(str(tmp_path / name)) for name in ("a", "b")]
    pair = Subset(parts[0], [0]), Subset(Joined(parts), [1])
    assert passed_over_by(*pair).counts == {".heic": 2}
    mixed = MixtureSource(dict(zip("ab", parts, strict=True)), {"a": 1.0, "b": 1.0})
    assert passed_over_by(mixed).counts == {".heic": 2}
    assert not passed_over_by(ShapesConfig().open()[0])


def test_no_images_says_what_there_was(tmp_path: Path) -> None:
    put(tmp_path, "a.heic", ".b.png")
    for read in (images_under, lambda folder: FolderSource(str(folder))):
        with pytest.raises(UserError, match=r"no images under .*passed over: 1 hidden.*\.heic"):
            read(tmp_path)


@pytest.mark.parametrize("count", [1, 2, 3])
def test_a_handful_of_images_has_some_to_train_on_and_some_to_measure(
    tmp_path: Path, count: int
) -> None:
    for i in range(count):
        put(tmp_path, f"{i}.png")
        (tmp_path / f"{i}.txt").write_text(f"image {i}")
    train, held_out = captioned_pair(*open_sources(FolderConfig(path=str(tmp_path))))
    assert len(train) == max(1, count - 1)
    assert len(held_out) == 1


def test_the_only_image_that_is_held_out_can_be_read(tmp_path: Path) -> None:
    put(tmp_path, "0.png", "1.png", "2.png")
    for bad in ("0.png", "1.png"):
        (tmp_path / bad).write_bytes(b"no image")
        (tmp_path / bad).with_suffix(".txt").write_text("a caption")
        train, held_out = open_sources(FolderConfig(path=str(tmp_path)))
        assert len(train) == 2
        open_image(held_out.record(0).image)
    (tmp_path / "2.txt").write_text("a caption")
    train, held_out = captioned_pair(*open_sources(FolderConfig(path=str(tmp_path))))
    assert (len(train), len(held_out)) == (2, 1)
    open_image(held_out.record(0).image)
    (tmp_path / "2.png").write_bytes(b"no image")
    assert [len(part) for part in open_sources(FolderConfig(path=str(tmp_path)))] == [2, 1]


def test_of_images_without_captions_none_is_all_that_is_held_out(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    for i in range(20):
        put(tmp_path, f"{i:02d}.png")
    config = FolderConfig(path=str(tmp_path))
    train, held_out = open_sources(config)
    assert isinstance(train, Subset)
    assert isinstance(held_out, Subset)
    for part, other in ((train, held_out), (held_out, train)):
        for path in tmp_path.glob("*.txt"):
            path.unlink()
        for index in other.indices:
            (tmp_path / f"{index:02d}.txt").write_text(f"image {index}")
        pair = captioned_pair(*open_sources(config))
        captions = [[s.record(i).caption for i in range(len(s))] for s in pair]
        assert all(captions)
        assert {*captions[0], *captions[1]} == {f"image {i}" for i in other.indices}
        said = capsys.readouterr().out
        assert f"left out {len(part.indices)} of 20 images without a caption" in said
    for path in tmp_path.glob("*.txt"):
        path.unlink()
    with pytest.raises(UserError, match="none of the 20 images has a caption"):
        captioned_pair(*open_sources(config))


def test_captions_of_some_do_not_change_what_is_held_out(image_folder: Path) -> None:
    config = FolderConfig(path=str(image_folder), held_out_share=0.3)
    whole = captioned_pair(*open_sources(config))
    rows = (image_folder / "metadata.csv").read_text().splitlines()
    (image_folder / "metadata.csv").write_text("\n".join([rows[0], *rows[4:]]))
    fewer = captioned_pair(*open_sources(config))
    for all_of_it, some in zip(whole, fewer, strict=True):
        every = {all_of_it.record(i).name for i in range(len(all_of_it))}
        assert every >= {some.record(i).name for i in range(len(some))}


def test_nothing_is_flipped_unless_the_data_says_so(tmp_path: Path) -> None:
    put(tmp_path, "left.png")
    (tmp_path / "left.txt").write_text("an arrow that points left")
    record = FolderSource(str(tmp_path)).record(0)
    ramp = np.broadcast_to(np.arange(64, dtype=np.uint8)[None, :, None] * 3, (64, 64, 3))
    image = Image.fromarray(np.ascontiguousarray(ramp))
    for seed in range(40):
        rng = np.random.default_rng(seed)
        options = AugmentConfig(flip="mirrorable")
        seen = np.asarray(augment(image, 16, options, rng, record.mirrorable))
        assert seen[0, 0, 0] < seen[0, -1, 0]


def test_of_several_captions_one_is_drawn_by_the_seed_and_all_are_learned(tmp_path: Path) -> None:
    put(tmp_path, "a.png", "b.png")
    (tmp_path / "a.txt").write_text("zebra one\n\nquokka quokka\r\nzebra one\n")
    (tmp_path / "b.txt").write_text("only this")
    source = FolderSource(str(tmp_path))
    assert source.record(0).captions == ("zebra one", "quokka quokka")
    assert source.record(1).captions == ("only this",)
    keys = [(0, seed) for seed in range(100)]
    drawn = varied_captions(source, keys)
    assert drawn == varied_captions(source, keys)
    assert 30 < drawn.count("quokka quokka") < 70
    assert set(drawn) == {"zebra one", "quokka quokka"}
    assert "quokka" in "".join(learn_text(source, 300)._tokenizer.get_vocab())


def test_one_caption_draws_the_random_numbers_that_it_always_did() -> None:
    record = Record("r", b"", "red heart", "noto", ("love", "like"))
    seen = [vary_caption(record, np.random.default_rng((seed, 1))) for seed in (10, 11, 12, 13)]
    assert seen == [
        "red heart love like, noto style",
        "red heart like",
        "red heart, noto style",
        "red heart",
    ]
