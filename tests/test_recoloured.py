"""Emoji in other colours: which are recoloured, how, and a small corpus from end to end."""

import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image, ImageDraw

from corpora.emoji import build as emoji
from corpora.icons.colours import COLOURS
from corpora.recoloured.__main__ import main
from corpora.recoloured.build import COPIES, HELD_OUT_COLOURS, is_thing, plain_name
from corpora.recoloured.hues import TARGETS, apart, colour_of, recoloured
from corpora.writing import write_rows

Script = Callable[..., tuple[int, str, str]]
THINGS = ["car", "mug", "boot", "kite", "lamp", "drum", "fish", "leaf", "crab", "sock"]
ARTISTS = ["noto", "twemoji", "blob"]


def drawing(colour: str, other: str = "", side: int = 32) -> Image.Image:
    """A disc of a colour with a white spot and a black rim, on nothing."""
    image = Image.new("RGBA", (side, side))
    draw = ImageDraw.Draw(image)
    draw.ellipse((1, 1, side - 2, side - 2), COLOURS[colour], (0, 0, 0))
    draw.rectangle((side // 2, side // 2, side // 2 + 3, side // 2 + 3), "white")
    if other:
        draw.rectangle((side // 2, 4, side // 2 + 8, side // 2), COLOURS[other])
    return image


def row(caption: str, artist: str, image: Image.Image, **changes: Any) -> dict[str, Any]:
    content = io.BytesIO()
    image.save(content, "PNG")
    return {
        "image": {"bytes": content.getvalue(), "path": None},
        "caption": caption,
        "concept": caption.upper(),
        "artist": artist,
        "licence": "MIT",
        "keywords": ["thing", "two words", "red"],
        "mirrorable": artist == "noto",
    } | changes


@pytest.mark.parametrize("own", TARGETS)
def test_an_image_of_one_colour_becomes_each_other_colour(own: str) -> None:
    image = drawing(own)
    found = colour_of(image)
    assert found is not None
    assert found.name() == own
    for target in TARGETS:
        turned = recoloured(image, found, target)
        again = colour_of(turned)
        assert again is not None
        assert again.name() == target, (own, target)
        before, after = np.asarray(image), np.asarray(turned)
        assert np.array_equal(before[..., 3], after[..., 3])
        grey = np.ptp(before[..., :3].astype(int), axis=2) < 8
        assert grey.any()
        assert np.array_equal(before[grey], after[grey])


def test_other_hues_stay_as_they_are() -> None:
    image = drawing("red", "green")
    found = colour_of(drawing("red"))
    assert found is not None
    before, after = np.asarray(image), np.asarray(recoloured(image, found, "blue"))
    green = (before[..., :3] == COLOURS["green"]).all(axis=2)
    red = (before[..., :3] == COLOURS["red"]).all(axis=2)
    assert green.sum() > 50
    assert np.array_equal(before[green], after[green])
    assert (after[red][:, 2] > after[red][:, 0]).all()


@pytest.mark.parametrize(
    "image",
    [
        drawing("red", "green").resize((16, 16)).crop((6, 0, 14, 10)),
        drawing("grey"),
        Image.new("RGBA", (8, 8)),
        Image.new("RGBA", (8, 8), "white"),
    ],
    ids=["two colours", "grey", "nothing", "white"],
)
def test_what_has_no_one_colour_has_none(image: Image.Image) -> None:
    assert colour_of(image) is None


def test_brown_has_a_hue_and_no_name() -> None:
    found = colour_of(drawing("brown"))
    assert found is not None
    assert found.name() == ""
    assert apart(350.0, 10.0) == 20


@pytest.mark.parametrize(
    ("caption", "keywords", "is_one"),
    [
        ("red apple", ["fruit"], True),
        ("cat face", ["animal", "face"], True),
        ("grinning face", ["face"], False),
        ("woman dancing", ["dance"], False),
        ("flag: poland", [], False),
        ("stop sign", [], False),
        ("car", ["old woman"], False),
    ],
)
def test_things_are_recoloured_and_people_and_signs_not(
    caption: str, keywords: list[str], is_one: bool
) -> None:
    assert is_thing({"caption": caption, "keywords": keywords}) == is_one


def test_a_name_has_no_colour() -> None:
    assert plain_name("red apple") == "apple"
    assert plain_name("oncoming car") == "oncoming car"
    assert plain_name("orange") == ""


def test_a_small_corpus_from_end_to_end(tmp_path: Path, run_script: Script) -> None:
    rows = [
        row(f"{thing}", artist, drawing(TARGETS[(i + j) % len(TARGETS)]))
        for i, thing in enumerate(THINGS)
        for j, artist in enumerate(ARTISTS)
    ]
    rows += [row("blue car", "noto", drawing("blue")), row("grey rock", "noto", drawing("grey"))]
    write_rows(rows, emoji.FEATURES, tmp_path / "train.parquet")
    out = tmp_path / "recoloured"
    status, said, error = run_script(main, "--emoji", tmp_path, "--out", out)
    assert status == 0, error
    parts = {
        split: pq.read_table(out / f"{split}.parquet").to_pylist()
        for split in ("train", HELD_OUT_COLOURS)
    }
    made = [each for part in parts.values() for each in part]
    assert f"{len(made)} images of" in said
    assert json.loads((out / "credits.json").read_text())["images"] == len(made)
    assert len(made) > len(rows) * 3
    for each in made:
        assert each["caption"] == f"{each['colour']} {each['name']}"
        assert each["keywords"] == [f"{each['colour']} thing"]
        with Image.open(io.BytesIO(each["image"]["bytes"])) as image:
            found = colour_of(image)
        assert found is not None
        assert found.name() == each["colour"]
    # A colour that the corpus has of a thing is not made again, nor one's own.
    assert [each["concept"] for each in made if each["caption"] == "blue car"] == ["BLUE CAR"]
    each_of = [(each["concept"], each["artist"], each["colour"]) for each in made]
    assert len(set(each_of)) == len(each_of)
    assert max(each_of.count(key) for key in each_of) == 1
    assert all(
        len([1 for c, a, _ in each_of if (c, a) == (concept, artist)]) <= COPIES + 1
        for concept, artist, _ in each_of
    )
    # What is held out is new in its combination alone.
    known = {(each["concept"], each["colour"]) for each in parts["train"]}
    assert parts[HELD_OUT_COLOURS]
    for each in parts[HELD_OUT_COLOURS]:
        assert (each["concept"], each["colour"]) not in known
        assert len({colour for concept, colour in known if concept == each["concept"]}) >= 2
    loaded = datasets.load_dataset("parquet", data_files=str(out / "train.parquet"))["train"]
    assert loaded[0]["image"].size == (32, 32)
    assert (out / "sheet.png").is_file()
    contents = {path.name: path.read_bytes() for path in out.iterdir()}
    assert run_script(main, "--emoji", tmp_path, "--out", out)[0] == 0
    assert contents == {path.name: path.read_bytes() for path in out.iterdir()}


def test_a_missing_corpus_is_one_line(tmp_path: Path, run_script: Script) -> None:
    status, _, error = run_script(main, "--emoji", tmp_path, "--out", tmp_path / "out")
    assert status
    assert "has no emoji corpus" in error
    assert f"python -m corpora.emoji --out {tmp_path}" in error
    assert error.count("\n") == 1
