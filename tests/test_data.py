"""Images and captions from a folder, parquet and code; what happens to bad ones."""

import io
import itertools
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dalle_base.common.errors import UserError
from dalle_base.common.images import centre_square, open_image, to_array
from dalle_base.data.augment import augment
from dalle_base.data.batches import ImageDataset, Shuffled, batches
from dalle_base.data.captions import vary_caption
from dalle_base.data.config import AugmentConfig, DataConfig
from dalle_base.data.sources import open_sources, read_data_config
from dalle_base.data.sources.base import Record, captioned
from dalle_base.data.sources.folder import FolderConfig
from dalle_base.data.sources.hub import DatasetsConfig
from dalle_base.data.sources.shapes import ShapesConfig


def captions(config: DataConfig) -> list[str]:
    train, held_out = open_sources(config)
    return sorted(s.record(i).caption or "" for s in (train, held_out) for i in range(len(s)))


def test_a_folder_with_metadata_csv(image_folder: Path) -> None:
    config = FolderConfig(path=str(image_folder), held_out_share=0.3)
    train, held_out = open_sources(config)
    assert len(train) + len(held_out) == 12
    assert len(held_out) >= 1
    assert "a red picture, number 0" in captions(config)


def test_a_folder_with_metadata_jsonl_and_one_with_text_files(image_folder: Path) -> None:
    (image_folder / "metadata.csv").unlink()
    lines = [json.dumps({"file_name": "03.png", "text": "from jsonl"})]
    (image_folder / "metadata.jsonl").write_text("\n".join(lines))
    (image_folder / "04.txt").write_text("from a text file\n")
    config = FolderConfig(path=str(image_folder), held_out_share=0)
    source = captioned(open_sources(config)[0])
    assert [source.record(i).caption for i in range(len(source))] == [
        "from jsonl",
        "from a text file",
    ]


def test_parquet(tmp_path: Path) -> None:
    import datasets

    image = Image.new("RGB", (8, 8), "red")
    buffer = io.BytesIO()
    image.save(buffer, "png")
    rows = {
        "image": [{"bytes": buffer.getvalue(), "path": None}] * 3,
        "caption": ["a", "b", "c"],
        "artist": ["x", "y", "z"],
        "keywords": [["k", "l"], [], ["m"]],
        "mirrorable": [True, False, True],
    }
    features = datasets.Features(
        image=datasets.Image(),
        caption=datasets.Value("string"),
        artist=datasets.Value("string"),
        keywords=datasets.List(datasets.Value("string")),
        mirrorable=datasets.Value("bool"),
    )
    path = tmp_path / "rows.parquet"
    datasets.Dataset.from_dict(rows, features=features).to_parquet(str(path))
    config = DatasetsConfig(
        source="datasets",
        path=str(path),
        held_out_share=0,
        artist_column="artist",
        keywords_column="keywords",
        mirrorable_column="mirrorable",
    )
    record = open_sources(config)[0].record(1)
    assert (record.caption, record.artist, record.keywords, record.mirrorable) == (
        "b",
        "y",
        (),
        False,
    )
    assert np.array_equal(to_array(open_image(record.image)), to_array(image))
    config.artist_column = "painter"
    with pytest.raises(UserError, match=r"painter.*it has image, caption"):
        open_sources(config)


def test_shapes_never_share_a_caption_between_training_and_held_out() -> None:
    train, held_out = open_sources(ShapesConfig(source="shapes", count=150))
    seen = {train.record(i).caption for i in range(150)}
    assert not seen & {held_out.record(i).caption for i in range(150)}


def test_a_config_of_a_source_is_read_from_its_own_options() -> None:
    config = read_data_config({"source": "shapes", "count": 9}, "here")
    assert config == ShapesConfig(source="shapes", count=9)
    assert read_data_config({"path": "x"}, "here") == FolderConfig(path="x")
    with pytest.raises(
        UserError, match=r"data\.source is 'web'; use one of folder, datasets, webdataset"
    ):
        read_data_config({"source": "web"}, "here")
    with pytest.raises(UserError, match="here: unknown key cuont"):
        read_data_config({"source": "shapes", "cuont": 9}, "here")


@pytest.mark.parametrize(
    ("config", "named"),
    [
        (FolderConfig(path="no/such/folder"), "no/such/folder"),
        (FolderConfig(), "data.path"),
        (DatasetsConfig(source="datasets"), "data.path"),
        (DatasetsConfig(source="datasets", path="nothing.parquet"), "nothing.parquet"),
        (ShapesConfig(source="shapes", split="tset"), "data.split is 'tset'; shapes has train"),
    ],
)
def test_missing_data_is_one_line_that_names_it(config: DataConfig, named: str) -> None:
    with pytest.raises(UserError, match=named) as error:
        open_sources(config)
    assert "\n" not in str(error.value)


def test_an_empty_folder_names_its_whole_path(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=str(tmp_path)):
        open_sources(FolderConfig(path=str(tmp_path)))


def test_no_captions_at_all_says_how_to_write_them(image_folder: Path) -> None:
    (image_folder / "metadata.csv").unlink()
    source, _ = open_sources(FolderConfig(path=str(image_folder)))
    with pytest.raises(UserError, match=r"metadata\.csv"):
        captioned(source)


def test_metadata_without_a_caption_column_says_what_it_found(image_folder: Path) -> None:
    (image_folder / "metadata.csv").write_text("file,title\n00.png,x\n")
    with pytest.raises(UserError, match="file_name and caption or text; found file, title"):
        open_sources(FolderConfig(path=str(image_folder)))


def test_an_unreadable_image_is_named_counted_and_replaced(
    image_folder: Path, capsys: pytest.CaptureFixture
) -> None:
    (image_folder / "05.png").write_bytes(b"this is no image")
    whole = (image_folder / "07.png").read_bytes()
    (image_folder / "07.png").write_bytes(whole[: len(whole) // 2])
    source, _ = open_sources(FolderConfig(path=str(image_folder), held_out_share=0))
    images = ImageDataset(source, 8, None)
    shown = [images[i, 0].index for i in range(len(images))]
    assert len(images.skipped) == 2
    assert set(range(12)) - set(shown) == {5, 7}
    printed = capsys.readouterr().out
    assert "05.png" in printed
    assert "(2 so far)" in printed


def test_nothing_readable_is_an_error(image_folder: Path) -> None:
    for path in image_folder.glob("*.png"):
        path.write_bytes(b"no")
    source, _ = open_sources(FolderConfig(path=str(image_folder), held_out_share=0))
    with pytest.raises(UserError, match="none of the 12 images"):
        ImageDataset(source, 8, None)[0, 0]


def test_transparency_becomes_white() -> None:
    image = Image.new("RGBA", (4, 4), (255, 0, 0, 0))
    assert to_array(open_image(image)).min() == 255
    palette = Image.new("P", (4, 4), 0)
    palette.info["transparency"] = 0
    assert to_array(open_image(palette)).min() == 255


def test_evaluation_crops_the_centre() -> None:
    array = np.zeros((10, 30, 3), dtype=np.uint8)
    array[:, 10:20] = 255
    assert to_array(centre_square(Image.fromarray(array), 10)).min() == 255


def test_augmentation_stays_near_the_centre_as_in_the_paper() -> None:
    """The square's offset is between 3/8 and 5/8 of the slack, so the ends of a 3:1 image
    are never seen."""
    array = np.zeros((16, 48, 3), dtype=np.uint8)
    array[:, :10], array[:, 38:] = 255, 255
    seen = [
        to_array(augment(Image.fromarray(array), 16, AugmentConfig(), np.random.default_rng(i)))
        for i in range(50)
    ]
    assert max(image.max() for image in seen) < 32  # black but for the filter's ringing


def test_augmentation_crops_at_most_a_ninth_and_flips_only_where_allowed() -> None:
    ramp = np.broadcast_to(np.arange(90, dtype=np.uint8)[None, :, None] * 2, (90, 90, 3))
    image = Image.fromarray(np.ascontiguousarray(ramp))
    flipped = 0
    for i in range(60):
        options = AugmentConfig(flip="mirrorable")
        same = to_array(augment(image, 30, options, np.random.default_rng(i), mirrorable=False))
        span = int(same[0, 0, -1]) - int(same[0, 0, 0])
        assert 150 <= span <= 180  # at least 8/9 of the ramp, in order
        other = to_array(augment(image, 30, options, np.random.default_rng(i), mirrorable=True))
        flipped += int(other[0, 0, 0] > other[0, 0, -1])
    assert 15 < flipped < 45


def test_the_order_depends_on_the_seed_alone_and_covers_each_epoch() -> None:
    first = list(itertools.islice(Shuffled(10, 3, seed=1), 10))
    later = list(itertools.islice(Shuffled(10, 3, seed=1, start=4), 6))
    assert later == first[4:]
    indices = [index for batch in first for index, _ in batch]
    assert sorted(indices[:10]) == sorted(indices[10:20]) == list(range(10))
    assert indices[:10] != indices[10:20]
    assert first != list(itertools.islice(Shuffled(10, 3, seed=2), 10))


def test_processes_share_out_the_global_batch() -> None:
    whole = list(itertools.islice(Shuffled(10, 4, seed=1), 5))
    halves = [list(itertools.islice(Shuffled(10, 2, seed=1, rank=r, world=2), 5)) for r in (0, 1)]
    assert [a + b for a, b in zip(*halves, strict=True)] == whole


def test_background_workers_change_nothing(image_folder: Path) -> None:
    source, _ = open_sources(FolderConfig(path=str(image_folder), held_out_share=0))
    images = ImageDataset(source, 8, AugmentConfig())
    streams = [batches(images, Shuffled(12, 4, seed=3), workers) for workers in (0, 1)]
    for _ in range(3):
        own, background = (next(stream) for stream in streams)
        for a, b in zip(own, background, strict=True):
            assert a.index == b.index
            assert np.array_equal(a.pixels, b.pixels)


def test_captions_vary_by_keywords_and_artist() -> None:
    record = Record("r", b"", "red heart", "noto", ("love", "like"))
    seen = {vary_caption(record, np.random.default_rng(i)) for i in range(300)}
    assert {"red heart", "red heart, noto style", "love", "like, noto style"} <= seen
    plain = Record("r", b"", "red heart")
    assert {vary_caption(plain, np.random.default_rng(i)) for i in range(50)} == {"red heart"}
