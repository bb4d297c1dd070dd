"""Captions beside images and in tables, as other systems and hands write them."""

import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from dalle_base.common.errors import UserError
from dalle_base.data.caption_tables import first_table
from dalle_base.data.caption_values import captions_in
from dalle_base.data.image_names import MOST_IMAGES
from dalle_base.data.sources.folder import FolderSource
from dalle_base.data.text_files import decode

HEADER = "file_name,caption"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with 0.png, 1.png and deep/2.png."""
    (tmp_path / "deep").mkdir()
    for name in ("0.png", "1.png", "deep/2.png"):
        Image.new("RGB", (4, 4)).save(tmp_path / name)
    return tmp_path


def captions(folder: Path) -> list[tuple[str, ...]]:
    """The captions of each image, in order."""
    source = FolderSource(str(folder))
    found = [source.record(i).captions for i in range(len(source))]
    assert [bool(each) for each in found] == [source.has_caption(i) for i in range(len(source))]
    return found


def from_csv(folder: Path, *lines: str, name: str = "metadata.csv", encoding: str = "utf-8") -> Any:
    (folder / name).write_bytes("\n".join(lines).encode(encoding))
    return captions(folder)


@pytest.mark.parametrize(
    "encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32", "cp1252"]
)
def test_every_usual_encoding_is_read(folder: Path, encoding: str) -> None:
    text = "une forêt d’été à l’œuvre"
    assert from_csv(folder, HEADER, f"0.png,{text}", encoding=encoding)[0] == (text,)
    (folder / "metadata.csv").unlink()
    (folder / "metadata.jsonl").write_bytes(
        json.dumps({"file_name": "0.png", "text": text}, ensure_ascii=False).encode(encoding)
    )
    (folder / "1.txt").write_bytes(f"{text}\n".encode(encoding))
    assert captions(folder) == [(text,), (text,), ()]


@pytest.mark.parametrize(
    "content",
    ["Ein Hund".encode("cp037"), "кот на окне".encode("cp1251"), "犬と猫が歩く".encode("shift-jis"),
     b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR", b"a\0\0\0", b"\xff\xfea", b"caf\xe9 \x81"],
)  # fmt: skip
def test_an_encoding_that_is_not_clear_is_said_and_not_guessed(
    folder: Path, content: bytes
) -> None:
    assert decode(content) is None
    (folder / "metadata.csv").write_bytes(b"file_name,caption\n0.png," + content)
    if b"\0" not in content and content[:2] != b"\xff\xfe":  # else it is told from the start
        with pytest.raises(UserError, match=r"metadata\.csv is no text in UTF-8.*save as UTF-8"):
            captions(folder)
    (folder / "metadata.csv").unlink()
    (folder / "0.txt").write_bytes(content)
    (folder / "1.txt").write_text("a cat")
    source = FolderSource(str(folder))
    assert [source.has_caption(i) for i in range(3)] == [False, True, False]
    assert dict(source.passed_over.counts) == {"captions that cannot be read": 1}


@pytest.mark.parametrize("separator", [",", ";", "\t", "|"])
@pytest.mark.parametrize(
    "columns", ["File_Name,Caption", "image,prompt", "id,Path,TEXT", "filename,Image Caption"]
)
def test_separators_and_names_of_columns(folder: Path, separator: str, columns: str) -> None:
    row = "7,0.png,a cat" if columns.startswith("id") else "0.png,a cat"
    lines = [each.replace(",", separator) for each in (columns, row)]
    assert from_csv(folder, *lines)[0] == ("a cat",)


@pytest.mark.parametrize(
    ("lines", "wanted"),
    [
        (["file_name;caption", "0.png;a cat, and a dog"], "a cat, and a dog"),
        (["file_name,caption", "0.png,a cat, and a dog"], "a cat, and a dog"),
        (["file_name,caption", '0.png,"a cat\nand ""a"" dog"'], 'a cat\nand "a" dog'),
        (["file_name, caption", '0.png, "a, b"'], "a, b"),
        (["file_name,caption", "0.png,a\u2028b\u0085c"], "a\u2028b\u0085c"),
        (["caption,file_name,width", "a cat,0.png,9"], "a cat"),
        (["sep=;", "file_name;caption", "0.png;a cat"], "a cat"),
        (["0.png,a cat, a dog"], "a cat, a dog"),
        (["\ufefffile_name\tcaption", "0.png\ta cat"], "a cat"),
        (['"file_name","caption"\r', '"0.png","a cat"\r', "\r"], "a cat"),
        (["file_name,caption,text", "0.png,,a cat"], "a cat"),
        (["file_name,caption", f"0.png,{'x' * 200_000}"], "x" * 200_000),
        (["file_name,caption", '0.png,a 5" disc'], 'a 5" disc'),
        (["file_name,caption", '0.png,"big" cat'], "big cat"),
    ],
)
def test_one_caption_in_a_table(folder: Path, lines: list[str], wanted: str) -> None:
    assert from_csv(folder, *lines) == [(wanted,), (), ()]


def test_a_quotation_mark_that_is_never_closed_does_not_swallow_the_rest(folder: Path) -> None:
    with pytest.raises(UserError, match=r"metadata\.csv: line 3 opens a quotation mark"):
        from_csv(folder, HEADER, "0.png,a cat", '1.png,"a dog', "deep/2.png,a cow")


def test_several_captions_of_an_image(folder: Path) -> None:
    rows = ["0.png,a cat", "1.png,a dog", "0.png,a small cat", "0.png,a cat"]
    assert from_csv(folder, HEADER, *rows) == [("a cat", "a small cat"), ("a dog",), ()]
    columns = "file_name,caption_1,caption_2,text"
    assert from_csv(folder, columns, "0.png,a,b,c", "1.png,,b,c")[:2] == [("a", "b"), ("b",)]
    rows = ["0.png\t['a cat', \"the cat's\"]", '1.png\t["a", "b"]']
    assert from_csv(folder, "file_name\tcaptions", *rows)[:2] == [
        ("a cat", "the cat's"),
        ("a", "b"),
    ]
    assert from_csv(folder, HEADER, "0.png,[a cat] in brackets", "1.png,[]")[0] == (
        "[a cat] in brackets",
    )


@pytest.mark.parametrize(
    ("value", "wanted"),
    [
        ("a cat ", ["a cat"]),
        (7, ["7"]),
        (2.5, ["2.5"]),
        (3.0, ["3"]),
        (None, []),
        (float("nan"), []),
        (True, []),
        (" \n\u3000", []),
        ([], []),
        ({}, []),
        (["a", None, "a", ["b", 3], {"raw": "c"}, {"other": "d"}], ["a", "b", "3", "c"]),
        ({"Caption": "a", "text": "b"}, ["a"]),
        ({"sentences": [{"raw": "a"}, {"raw": "b"}]}, ["a", "b"]),
        ("\ud83d\ude00 \ud800", ["\U0001f600 \ufffd"]),
        ([10**5000], []),
    ],
)
def test_captions_in_a_value_of_any_type(value: Any, wanted: list[str]) -> None:
    assert captions_in(value) == wanted


@pytest.mark.parametrize(
    "value",
    [
        [{"file_name": "0.png", "caption": ["a", "b"]}, {"file_name": "1.png", "caption": None}],
        {"0.png": ["a", "b"], "1.png": ""},
        {"0.png": {"caption": ["a", "b"], "tags": "x"}},
        {"file_name": ["0.png", "1.png"], "caption": [["a", "b"], None]},
        {"file_name": {"0": "0.png", "1": "1.png"}, "caption": {"0": ["a", "b"], "1": None}},
        {"info": {}, "data": [{"image": {"path": "0.png"}, "text": ["a", "b"]}]},
        {"images": [{"filename": "0.png", "sentences": [{"raw": "a"}, {"raw": "b"}]}]},
        {
            "images": [{"id": 5, "file_name": "0.png"}],
            "annotations": [{"image_id": 5, "caption": "a"}, {"image_id": 5, "caption": "b"}],
        },
        [["0.png", "a", "b"]],
        {"file_name": "0.png", "caption": ["a", "b"]},
    ],
)
def test_json_of_any_shape(folder: Path, value: Any) -> None:
    (folder / "metadata.json").write_text(json.dumps(value, indent=1))
    assert captions(folder) == [("a", "b"), (), ()]


def test_lines_of_json(folder: Path) -> None:
    rows = [{"file_name": "0.png", "caption": 5}, {"file_name": "1.png", "caption": "a\u2028b"}]
    lines = [json.dumps(row, ensure_ascii=False) for row in rows]
    (folder / "metadata.jsonl").write_text("\r\n".join([*lines, "", "null", "[]", "3", ""]))
    source = FolderSource(str(folder))
    assert [source.record(i).caption for i in range(3)] == ["5", "a\u2028b", None]
    assert source.passed_over.counts["rows without a file's name"] == 3


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("metadata.jsonl", '{"file_name": "0.png"}\n{"x', r"metadata\.jsonl: line 2 is not readab"),
        ("metadata.jsonl", "[" * 100_000, "line 1 is not readable JSON"),
        ("metadata.json", "7", "needs file_name and caption or text; found nothing"),
        ("metadata.json", '[{"a": 1}]', "needs file_name and caption or text; found a"),
        ("metadata.jsonl", '{"file_name": "0.png"}', "found file_name$"),
        ("metadata.csv", "file\tsubject\n0.png\tx", "found file, subject"),
        ("metadata.csv", "caption\na cat", "found caption"),
        ("metadata.csv", "a" * 999 + "\nx", r"found a+\.\.\.$"),
    ],
)
def test_what_is_no_table_of_captions_is_one_line(
    folder: Path, name: str, content: str, said: str
) -> None:
    (folder / name).write_text(content)
    with pytest.raises(UserError, match=said) as error:
        FolderSource(str(folder))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("content", ["", "\n\n", HEADER, f"{HEADER}\n0.png,\n1.png,  \n"])
def test_an_empty_table_or_caption_is_an_image_without_caption(folder: Path, content: str) -> None:
    assert from_csv(folder, content) == [(), (), ()]


@pytest.mark.parametrize(
    "name",
    [
        r"deep\2.png",
        r".\deep\2.png",
        "./deep/2.png",
        "deep/../deep/2.png",
        "2.png",
        "deep/2",
        "2",
        "DEEP/2.PNG",
        "/home/bob/data/deep/2.png",
        r"C:\data\deep\2.png",
        "data/train/deep/2.png",
        "file:///x/deep/2.png",
        "deep%2F2.png",
        " deep/2.png ",
    ],
)
def test_a_name_from_another_system_or_folder_that_fits_one_file(folder: Path, name: str) -> None:
    assert from_csv(folder, "file_name\tcaption", f"{name}\ta cow") == [(), (), ("a cow",)]


def test_names_that_fit_no_file_or_several_are_counted(
    folder: Path, capsys: pytest.CaptureFixture
) -> None:
    Image.new("RGB", (4, 4)).save(folder / "deep" / "0.png")
    Image.new("RGB", (4, 4)).save(folder / "deep" / "3.png")
    (folder / "note.heic").write_text("")
    rows = ["9.png,x", "other/9.png,x", "other/3.png,x", "../../etc/passwd,x", f"{'x' * 5000},x"]
    rows += ["note.heic,x", "a/0,x", ",x", "3.png,fits", "0.png,exact"]
    (folder / "metadata.csv").write_text("\n".join([HEADER, *rows]))
    source = FolderSource(str(folder))
    captions = [source.record(i).captions for i in range(len(source))]
    assert captions == [("exact",), (), (), (), ("fits",)]
    counts = source.passed_over.counts
    assert counts["names match no file"] == 6
    assert counts["names are of files that are passed over"] == 1
    assert counts["rows without a file's name"] == 1
    assert "6 names match no file, the first: 9.png" in capsys.readouterr().out


def test_a_name_is_not_given_to_a_file_that_another_names_better(folder: Path) -> None:
    # The other split's images are not here: their captions must not land on this one's.
    rows = [f"{folder.name}/0.png,here", "test/0.png,not here", "a/1.png,who", "b/1.png,knows"]
    assert from_csv(folder, HEADER, *rows) == [("here",), (), ()]
    counts = FolderSource(str(folder)).passed_over.counts
    assert (counts["names match no file"], counts["names fit several files"]) == (1, 2)


def test_many_images_of_one_name_are_told_apart_by_their_folders(tmp_path: Path) -> None:
    count = MOST_IMAGES + 1
    for number in range(count):
        (tmp_path / f"{number:03d}").mkdir()
        (tmp_path / f"{number:03d}" / "image.png").touch()
    rows = [f"/elsewhere/{number:03d}/IMAGE.png,number {number}" for number in range(count)]
    found = from_csv(tmp_path, HEADER, *rows, "image.png,which?", "/x/image,which?")
    assert found == [(f"number {number}",) for number in range(count)]
    assert FolderSource(str(tmp_path)).passed_over.counts == {"names fit several files": 2}


def test_each_folder_may_have_a_table(folder: Path) -> None:
    (folder / "Metadata.CSV").write_text(f"{HEADER}\n0.png,root\ndeep/2.png,from above\n")
    (folder / "deep" / "captions.jsonl").write_text('{"file_name": "2.png", "text": "beside"}')
    assert captions(folder) == [("root",), (), ("from above", "beside")]
    assert first_table(["captions.csv", "x.csv", "metadata.json", "metadata.jsonl"]) == (
        "metadata.jsonl"
    )
    assert first_table(["data.txt", "data.csv"]) is None


def test_a_table_may_be_a_txt_and_a_txt_need_not_be_a_table(folder: Path) -> None:
    assert from_csv(folder, "image,caption", "0.png,a cat", name="captions.txt")[0] == ("a cat",)
    assert from_csv(folder, "To do: write captions", name="captions.txt") == [(), (), ()]
    assert FolderSource(str(folder)).passed_over.counts == {".txt": 1}
    Image.new("RGB", (4, 4)).save(folder / "captions.png")
    assert from_csv(folder, "image,caption", name="captions.txt")[2] == ("image,caption",)


@pytest.mark.parametrize(
    "name", ["0.txt", "0.TXT", "0.png.txt", "0.PNG.TXT", "0.caption", "0.png.caption", "0.Caption"]
)
def test_texts_beside_an_image(folder: Path, name: str) -> None:
    (folder / name).write_text("  a cat \n")
    (folder / "notes.txt").write_text("no image's")
    assert captions(folder) == [("a cat",), (), ()]
    assert dict(FolderSource(str(folder)).passed_over.counts) == {".txt": 1}


def test_a_table_comes_before_a_text_beside_an_image(folder: Path) -> None:
    (folder / "0.txt").write_text("beside")
    (folder / "1.txt").write_text("beside")
    assert from_csv(folder, HEADER, "0.png,in the table", "1.png,") == [
        ("in the table",),
        ("beside",),
        (),
    ]
