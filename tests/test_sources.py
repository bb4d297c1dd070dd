"""Tables, tars and folders behind one interface; what is said of data of another kind."""

import gzip
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
from builders import encoded, shade, shades, table, write_parquet, write_tar

from dalle_base.common.errors import UserError
from dalle_base.data.batches import ImageDataset
from dalle_base.data.sources import open_sources, read_data_config
from dalle_base.data.sources.base import Source, captioned
from dalle_base.data.sources.mixture import MixtureSource, shares


def opened(source: str, path: Any, **options: Any) -> Source:
    """The training source of a path, with nothing set aside."""
    values = {"source": source, "path": str(path), "held_out_share": 0, **options}
    return open_sources(read_data_config(values, "test"))[0]


def contents(source: Source) -> list[tuple[int, str | None]]:
    """The shade and the caption of each record."""
    records = [source.record(i) for i in range(len(source))]
    return [(shade(record), record.caption) for record in records]


def write_arrow(folder: Path) -> str:
    table(shades(6)).save_to_disk(folder / "saved")
    (inner,) = (folder / "saved").glob("*.arrow")
    (folder / "arrow").mkdir()
    inner.rename(folder / "arrow/rows.arrow")
    return str(folder / "arrow/rows.arrow")


def write_saved(folder: Path) -> str:
    table(shades(6)).save_to_disk(folder / "saved")
    return str(folder / "saved")


def write_saved_splits(folder: Path) -> str:
    splits = {"train": table(shades(6)), "test": table(shades(3, 50))}
    datasets.DatasetDict(splits.items()).save_to_disk(folder / "saved")
    return str(folder / "saved")


def write_some(folder: Path, *names: str) -> str:
    """Six rows over some parquet files, of which two have three each."""
    for number, name in enumerate(names):
        write_parquet(folder / name, shades(3, 3 * number))
    return str(folder)


def write_names(folder: Path) -> str:
    """A table that names image files beside it."""
    for number in range(6):
        (folder / "pics").mkdir(exist_ok=True)
        (folder / f"pics/{number}.png").write_bytes(encoded(number))
    lines = [json.dumps({"image": f"pics/{i}.png", "caption": f"number {i}"}) for i in range(6)]
    (folder / "rows.jsonl").write_text("\n".join(lines))
    return str(folder / "rows.jsonl")


LAYOUTS: dict[str, Callable[[Path], str]] = {
    "one parquet": lambda folder: str(write_parquet(folder / "a.parquet", shades(6))),
    "a glob": lambda folder: write_some(folder, "a.parquet", "b.parquet") + "/*.parquet",
    "a glob into folders": lambda folder: (
        write_some(folder, "x/a.parquet", "y/b.parquet") + "/**/*.parquet"
    ),
    "a folder": lambda folder: write_some(folder, "a.parquet", "in/b.PARQUET", "._a.parquet"),
    "a copy of the hub": lambda folder: write_some(
        folder,
        *("data/train-00000-of-00002.parquet", "data/train-00001-of-00002.parquet"),
        "data/test-00000-of-00001.parquet",
    ),
    "arrow": write_arrow,
    "save_to_disk": write_saved,
    "save_to_disk of splits": write_saved_splits,
    "names of files": write_names,
}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("kind", ["datasets", "stream"])
def test_tables_are_read_as_people_have_them(tmp_path: Path, layout: str, kind: str) -> None:
    path = LAYOUTS[layout](tmp_path)
    if layout == "a folder":  # what a macOS archive leaves beside each file is no table
        (tmp_path / "._a.parquet").write_bytes(b"resource fork")
    expected = [(i, f"number {i}") for i in range(6)]
    if kind == "datasets":
        assert contents(opened("datasets", path)) == expected
    else:
        _, held_out = open_sources(
            read_data_config({"source": "stream", "path": path, "held_out_path": path}, "test")
        )
        assert contents(held_out) == expected


def test_image_files_are_beside_the_table_that_names_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two parquet files of different lengths name files alike, each in its own folder."""
    for part, count in enumerate((2, 3)):
        folder = tmp_path / f"part{part}"
        rows = [{"image": f"{i}.png", "caption": f"{part} {i}"} for i in range(count)]
        write_parquet(folder / "rows.parquet", rows)
        for i in range(count):
            (folder / f"{i}.png").write_bytes(encoded(100 * part + i))
    monkeypatch.chdir(tmp_path)
    seen = [(0, "0 0"), (1, "0 1"), (100, "1 0"), (101, "1 1"), (102, "1 2")]
    assert contents(opened("datasets", tmp_path)) == seen
    assert contents(opened("datasets", "part1/rows.parquet")) == seen[2:]
    both = {"source": "stream", "path": str(tmp_path), "held_out_path": "."}
    assert contents(open_sources(read_data_config(both, "test"))[1]) == seen


def test_captions_may_be_labels_or_several(tmp_path: Path) -> None:
    rows = table([{"image": encoded(1), "kind": 1, "texts": ["a cat", "", "one cat", None]}])
    names = datasets.ClassLabel(names=["dog", "cat"])
    rows.cast_column("kind", names).to_parquet(str(tmp_path / "a.parquet"))
    label = opened("datasets", tmp_path, caption_column="kind")
    assert (label.record(0).caption, label.has_caption(0)) == ("cat", True)
    several = opened("datasets", tmp_path, caption_column="texts").record(0)
    assert (several.caption, several.other_captions) == ("a cat", ("one cat",))


def test_a_name_on_the_hub_is_loaded_with_its_split(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def load_dataset(path: str, **options: Any) -> datasets.Dataset:
        asked.append((path, options))
        return table(shades(2))

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    assert len(opened("datasets", "someone/pictures", split="validation")) == 2
    assert asked == [("someone/pictures", {"split": "validation", "streaming": False})]


# Tars

SAMPLES: dict[str, bytes | str] = {
    "0.png": encoded(10),
    "0.txt": "\ufeffa plain caption\n",
    "in/1.jpg": encoded(40, "JPEG"),
    "in/1.json": json.dumps({"caption": "from json", "title": "a title"}),
    "in/1.seg.png": encoded(200),
    "._0.png": b"resource fork",
    "in/.hidden/9.png": encoded(9),
    "2.JPG": encoded(70, "JPEG"),
    "2.json": json.dumps({"captions": ["one", "two"]}),
    "3.png": encoded(30),
    "4.txt": "no image",
}


def near(source: Source) -> list[tuple[int, str | None]]:
    """`contents`, shades to the next ten: JPEG is not exact."""
    return [(round(red, -1), caption) for red, caption in contents(source)]


def test_one_tar_with_images_and_captions_of_several_kinds(tmp_path: Path) -> None:
    path = write_tar(tmp_path / "a.tar", SAMPLES)
    source = opened("webdataset", path)
    assert near(source) == [(10, "a plain caption"), (40, "from json"), (70, "one"), (30, None)]
    assert source.record(2).other_captions == ("two",)
    assert source.record(1).name == f"{path}:in/1"
    assert len(captioned(source)) == 3
    titles = opened("webdataset", path, caption_column="title")
    assert [caption for _, caption in near(titles)] == [None, "a title", None, None]
    assert near(opened("webdataset", path, image_column="seg.png")) == [(200, "from json")]


@pytest.mark.parametrize("place", [".", "*.tar", "**/*.tar"])
def test_several_tars_come_one_after_the_other(tmp_path: Path, place: str) -> None:
    for number, name in enumerate(("a.tar", "b.tar")):
        members = {"0.png": encoded(10 * number), "0.txt": f"of {name}"}
        write_tar(tmp_path / "shards" / name, members)
    source = opened("webdataset", tmp_path / "shards" / place)
    assert contents(source) == [(0, "of a.tar"), (10, "of b.tar")]


def test_a_tar_that_is_cut_short_is_read_as_far_as_it_goes(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    members = {f"{i}.png": encoded(10 * i) for i in range(4)}
    path = write_tar(tmp_path / "a.tar", members)
    path.write_bytes(path.read_bytes()[: 3 * 1024 + 540])
    assert contents(opened("webdataset", path)) == [(0, None), (10, None), (20, None)]
    assert "a.tar is damaged or cut short" in capsys.readouterr().out


def test_captions_that_cannot_be_read_are_counted(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    members = {"0.png": encoded(1), "0.json": "{not json", "1.png": encoded(2), "1.txt": "two"}
    members |= {
        "2.png": encoded(3),
        "2.txt": b"\x81\x8d\x8f",
        "3.png": encoded(4),
        "3.json": "[" * 9999,
    }
    source = opened("webdataset", write_tar(tmp_path / "a.tar", members))
    assert [caption for _, caption in contents(source)] == [None, "two", None, None]
    assert "a.tar has 3 captions that cannot be read, the first: 0" in capsys.readouterr().out


def test_tars_and_tables_are_mixed_by_weight(tmp_path: Path) -> None:
    write_parquet(tmp_path / "rows/a.parquet", shades(9))
    write_tar(tmp_path / "tars/a.tar", SAMPLES)
    parts = {
        "rows": {"source": "datasets", "path": str(tmp_path / "rows"), "held_out_share": 0.2},
        "tars": {"source": "webdataset", "path": str(tmp_path / "tars"), "weight": 3},
    }
    train, held_out = open_sources(read_data_config({"source": "mixture", "parts": parts}, "test"))
    assert isinstance(train, MixtureSource)
    assert shares(train) == pytest.approx([1 / 4, 3 / 4], abs=0.03)
    images = ImageDataset(train, 8, None)
    for index in range(len(train)):
        first = images.first_with_same_image(index)
        assert np.array_equal(images[index, 0].pixels, images[first, 0].pixels)
    assert len(held_out) == 3


# What is said


def test_a_mixture_without_captions_says_what_to_do_for_each_part(tmp_path: Path) -> None:
    rows = [{"image": encoded(1), "text": "x"}]
    write_parquet(tmp_path / "rows/a.parquet", rows * 4)
    write_tar(tmp_path / "tars/a.tar", {"0.png": encoded(1), "1.png": encoded(2)})
    parts = {
        "rows": {"source": "datasets", "path": str(tmp_path / "rows")},
        "tars": {"source": "webdataset", "path": str(tmp_path / "tars")},
    }
    train, _ = open_sources(read_data_config({"source": "mixture", "parts": parts}, "test"))
    with pytest.raises(UserError) as error:
        captioned(train)
    assert "data.parts.rows: columns are image, text; set data.caption_column=text" in str(
        error.value
    )
    assert "data.parts.tars: captions are in .txt or .json" in str(error.value)


def write_bad(folder: Path) -> None:
    write_parquet(folder / "other/a.parquet", [{"image": encoded(1), "text": "x"}] * 2)
    write_parquet(folder / "pic/a.parquet", [{"img": 1, "caption": "x"}])
    write_parquet(folder / "split/test.parquet", shades(2))
    (folder / "bad.parquet").write_bytes(b"PAR1 this is none")
    write_tar(folder / "tars/a.tar", {"0.png": encoded(1), "0.cls": "3", "0.json": '{"name": "x"}'})
    (folder / "packed").mkdir()
    (folder / "packed/a.tar.gz").write_bytes(gzip.compress((folder / "tars/a.tar").read_bytes()))
    shutil.copy(folder / "packed/a.tar.gz", folder / "gz.tar")
    (folder / "broken.tar").write_bytes(b"x" * 2000)
    (folder / "pics").mkdir()
    (folder / "pics/0.png").write_bytes(encoded(1))
    (folder / "empty").mkdir()


@pytest.mark.parametrize(
    ("source", "path", "options", "said"),
    [
        ("folder", "tars", {}, "it holds tars: set data.source=webdataset"),
        ("folder", "other", {}, "it holds parquet, Arrow or other tables: set data.source=dataset"),
        ("folder", "other/a.parquet", {}, "tables: set data.source=datasets"),
        ("folder", "tars/a.tar", {}, "it holds tars: set data.source=webdataset"),
        ("datasets", "tars", {}, "set data.source=webdataset"),
        ("datasets", "tars/a.tar", {}, "names .tar files; it holds tars: set data.source=webd"),
        ("datasets", "pics", {}, "it holds image files: set data.source=folder"),
        ("datasets", "empty", {}, "holds no parquet or Arrow files; set data.path"),
        ("datasets", "*.arrow", {}, "no arrow file matches"),
        ("datasets", "none/", {}, "no file matches"),
        ("datasets", "bad.parquet", {}, "bad.parquet' cannot be loaded: "),
        ("datasets", "split", {}, "has no split 'train'; set data.split=test"),
        (
            "datasets",
            "other",
            {"image_column": "pic"},
            "no column 'pic'; it has image, text: set da",
        ),
        ("datasets", "other", {"image_column": "pic"}, "set data.image_column=image"),
        ("datasets", "other", {"caption_column": "words"}, "has no column 'words'; it has image"),
        ("datasets", "pic", {"image_column": "img"}, "column 'img' holds no images"),
        ("webdataset", "other", {}, "parquet, Arrow or other tables: set data.source=datasets"),
        ("webdataset", "packed", {}, "unpack a.tar.gz (gzip) to a .tar first"),
        ("webdataset", "gz.tar", {}, "gz.tar is compressed (gzip): unpack it"),
        ("webdataset", "broken.tar", {}, "broken.tar is no tar that can be read"),
        ("webdataset", "tars", {"image_column": "webp"}, "no .webp files in the tars of"),
        ("webdataset", "nowhere", {}, "no .tar at"),
        ("stream", "pics", {}, "it holds image files: set data.source=folder"),
        ("stream", "bad.parquet", {}, "bad.parquet"),
        ("stream", "gz.tar", {}, "is compressed"),
    ],
)
def test_data_of_another_kind_is_one_line_that_says_what_to_do(
    tmp_path: Path, source: str, path: str, options: dict[str, str], said: str
) -> None:
    write_bad(tmp_path)
    with pytest.raises(UserError) as error:
        opened(source, tmp_path / path, **options)
    assert said in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("source", "path", "options", "said"),
    [
        ("datasets", "other", {}, "columns are image, text; set data.caption_column=text"),
        (
            "webdataset",
            "tars",
            {},
            "columns are cls, json, png; .json has name: set data.caption_c",
        ),
        ("webdataset", "tars", {"caption_column": "txt"}, "no 'txt' in the tars, columns are cls"),
        ("folder", "pics", {}, "add a metadata.csv"),
    ],
)
def test_captions_elsewhere_are_pointed_to(
    tmp_path: Path, source: str, path: str, options: dict[str, str], said: str
) -> None:
    write_bad(tmp_path)
    with pytest.raises(UserError) as error:
        captioned(opened(source, tmp_path / path, **options))
    assert said in str(error.value)
    assert ("metadata.csv" in str(error.value)) == (source == "folder")
    assert "\n" not in str(error.value)
