"""The emoji corpus: reading packages, naming images, holding out pairs, and what is written."""

import dataclasses
import io
import json
import shutil
import sys
import tarfile
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

import datasets
import pytest
from PIL import Image

from corpora.emoji import build as building
from corpora.emoji import images, packages
from corpora.emoji.__main__ import main
from corpora.emoji.concepts import Concepts, load_concepts, plain, slug
from corpora.emoji.export import main as export_main
from corpora.emoji.mirror import mirrorable
from corpora.emoji.names import FXEMOJI, RENAMED
from corpora.emoji.packages import members, tarball_name
from corpora.emoji.readers import Reading, read
from corpora.emoji.sources import LABELS, SOURCES, Source
from corpora.emoji.splits import (
    HELD_OUT_CONCEPTS,
    HELD_OUT_PAIRS,
    OTHERS_IN_TRAIN,
    SPLITS,
    TRAIN,
    split_pairs,
)
from dalle_base.common.errors import UserError

ENTRIES = [
    {"hexcode": "2764-FE0F", "label": "red heart", "group": 0, "subgroup": 14, "tags": ["Love"]},
    {
        "hexcode": "1F44B",
        "label": "waving hand",
        "group": 1,
        "subgroup": 16,
        "skins": [{"hexcode": "1F44B-1F3FB"}],
    },
    {"hexcode": "0023-FE0F-20E3", "label": "keycap: #", "group": 8, "subgroup": 94},
    {"hexcode": "002A-FE0F-20E3", "label": "keycap: *", "group": 8, "subgroup": 94},
    {"hexcode": "1F40C", "label": "snail", "group": 3, "subgroup": 39},
    {"hexcode": "1F431", "label": "cat face", "group": 3, "subgroup": 34},
    {"hexcode": "1F408", "label": "cat", "group": 3, "subgroup": 34},
    {"hexcode": "1F997", "label": "cricket", "group": 3, "subgroup": 39},
    {"hexcode": "1F3CF", "label": "cricket game", "group": 6, "subgroup": 62},
    {"hexcode": "1F600", "label": "grinning face", "group": 0, "subgroup": 0},
    {"hexcode": "1F449", "label": "backhand index pointing right", "group": 1, "subgroup": 18},
    {"hexcode": "1F448", "label": "backhand index pointing left", "group": 1, "subgroup": 18},
    {"hexcode": "1F983", "label": "turkey", "group": 3, "subgroup": 35},
    {"hexcode": "1F1F9-1F1F7", "label": "flag: Türkiye", "group": 9, "subgroup": 98},
    {"hexcode": "1F3F3-FE0F-200D-1F308", "label": "rainbow flag", "group": 9, "subgroup": 97},
    {"hexcode": "1F3FB", "label": "light skin tone", "group": 2, "subgroup": 32},
    {"hexcode": "1F1E6", "label": "regional indicator A"},
]
SUBGROUPS = {
    **{"0": "face-smiling", "14": "heart", "16": "hand-fingers-open", "18": "hand-single-finger"},
    **{"32": "skin-tone", "34": "animal-mammal", "35": "animal-bird", "39": "animal-bug"},
    **{"62": "sport", "94": "keycap", "97": "flag", "98": "country-flag"},
}
FILES = Source("noto", "files@1", "MIT", "us", "", 0, folder="package/img/")
ICONS = Source("blob", "icons@1", "MIT", "us", "", 0)
GLUED = Source("fxemoji", "glued@1", "MIT", "us", "", 0, glued=True)
RED_SQUARE = '<path fill="#f00" d="M0 0h8v16H0z"/>'  # the left half of a 16x16 box


@pytest.fixture
def concepts() -> Concepts:
    return Concepts(ENTRIES, SUBGROUPS)


def pack(path: Path, files: dict[str, bytes]) -> Path:
    """A tarball as npm makes them."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w:gz") as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(f"package/{name}")
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return path


def png(size: int = 64, colour: str = "red", kind: str = "PNG") -> bytes:
    content = io.BytesIO()
    Image.new("RGBA", (size, size), colour).save(content, kind)
    return content.getvalue()


def icon_set(icons: dict, aliases: dict | None = None, chars: dict | None = None) -> dict:
    """The files of an iconify package."""
    collection = {"icons": icons, "aliases": aliases or {}, "width": 16, "height": 16}
    return {
        "icons.json": json.dumps(collection).encode(),
        "chars.json": json.dumps(chars or {}).encode(),
    }


def captions(source: Source, tarball: Path, concepts: Concepts) -> tuple[set[str], Reading]:
    """What the source's images show, and what was left."""
    reading = Reading()
    return {concept.caption for concept, _ in read(source, tarball, concepts, reading)}, reading


# Naming


@pytest.mark.parametrize("spelling", ["2764-FE0F", "2764", "2764-fe0f"])
def test_code_points_match_with_and_without_variation_selector(concepts, spelling):
    assert concepts.of_code_points(spelling).caption == "red heart"


def test_code_points_match_padded_or_not():
    assert plain("23-fe0f-20e3") == plain("0023-20E3") == "0023-20E3"


def test_slug_spells_labels_as_files_do():
    assert slug("flag: Côte d’Ivoire") == "flag-cote-divoire"
    assert slug("flag: St. Kitts & Nevis") == "flag-st-kitts-and-nevis"
    assert slug("o’clock") == "oclock"


@pytest.mark.parametrize(
    ("name", "caption"),
    [
        ("snail", "snail"),
        ("keycap-asterisk", "keycap: *"),
        ("flag-for-turkey", "flag: türkiye"),
        ("flag-for-rainbow-flag", "rainbow flag"),
        ("keycap", None),  # several labels would fit
        ("letter-a", None),
    ],
)
def test_names_find_their_label(concepts, name, caption):
    concept = concepts.of_name(name)
    assert (concept and concept.caption) == caption


def test_glued_names_follow_the_artist_where_labels_have_moved(concepts):
    assert concepts.of_name("grinningface", glued=True).caption == "grinning face"
    assert concepts.of_name("cat", glued=True).caption == "cat face"
    assert concepts.of_name("catside", glued=True).caption == "cat"


# Reading


def test_files_by_code_point(tmp_path, concepts):
    tarball = pack(
        tmp_path / "files.tgz",
        {
            "img/2764-fe0f.png": png(),
            "img/1f44b.png": png(),
            "img/1f44b-1f3fb.png": png(),
            "img/1f3fb.png": png(),
            "img/23-20e3.png": png(),
            "img/beef.png": png(),
            "other/1f40c.png": png(),
        },
    )
    found, reading = captions(FILES, tarball, concepts)
    assert found == {"red heart", "waving hand", "keycap: #"}
    assert reading == Reading(skin_tones=2, unmatched=["beef"])


def test_misdrawn_files_are_left_out(tmp_path, concepts):
    tarball = pack(tmp_path / "files.tgz", {"img/1f40c.png": png(), "img/1f408.png": png()})
    source = dataclasses.replace(FILES, misdrawn=("1F408",))
    found, reading = captions(source, tarball, concepts)
    assert found == {"snail"}
    assert reading.unmatched == ["1f408"]


def test_small_pngs_are_kept_and_others_made_small():
    small = png(64)
    assert images.small_png(small) is small
    with Image.open(io.BytesIO(images.small_png(png(256, kind="WEBP")))) as image:
        assert (image.format, image.size, image.mode) == ("PNG", (128, 128), "RGBA")


def test_icons_by_name_alias_and_code_point(tmp_path, concepts):
    body = {"body": RED_SQUARE}
    tarball = pack(
        tmp_path / "icons.tgz",
        icon_set(
            {
                "snail": body,
                "escargot": body,
                "old-grin": body,
                "cricket-game": body,
                "turkey": {**body, "hidden": True},
                "waving-hand": body,
                "waving-hand-dark": body,
                "letter-a": body,
            },
            # The insect is not what the game's image shows, whatever the alias says.
            aliases={
                "grinning-face": {"parent": "old-grin"},
                "cricket": {"parent": "cricket-game"},
            },
            chars={"2764": "escargot"},
        ),
    )
    found, reading = captions(ICONS, tarball, concepts)
    assert found == {"snail", "red heart", "grinning face", "cricket game", "waving hand"}
    assert reading == Reading(skin_tones=1, unmatched=["turkey", "letter-a"])


def test_glued_icons(tmp_path, concepts):
    tarball = pack(
        tmp_path / "glued.tgz",
        icon_set({"grinningface": {"body": RED_SQUARE}, "fog": {"body": RED_SQUARE}}),
    )
    found, reading = captions(GLUED, tarball, concepts)
    assert found == {"grinning face"}
    assert reading.unmatched == ["fog"]


def test_icons_are_drawn_with_transparency_and_flipped_aliases(tmp_path, concepts):
    left, right = "backhand-index-pointing-left", "backhand-index-pointing-right"
    tarball = pack(
        tmp_path / "icons.tgz",
        icon_set({left: {"body": RED_SQUARE}}, aliases={right: {"parent": left, "hFlip": True}}),
    )
    drawn = {
        concept.caption: Image.open(io.BytesIO(image))
        for concept, image in read(ICONS, tarball, concepts, Reading())
    }
    pointing_left = drawn["backhand index pointing left"].convert("RGBA")
    pointing_right = drawn["backhand index pointing right"].convert("RGBA")
    assert pointing_left.size == (128, 128)
    assert pointing_left.getpixel((10, 64)) == (255, 0, 0, 255)
    assert pointing_left.getpixel((118, 64)) == (0, 0, 0, 0)
    assert pointing_right.getpixel((118, 64)) == (255, 0, 0, 255)
    assert pointing_right.getpixel((10, 64)) == (0, 0, 0, 0)


@pytest.mark.parametrize(
    ("caption", "subgroup", "expected"),
    [
        ("snail", "animal-bug", True),
        ("red heart", "heart", True),
        ("flag: poland", "country-flag", False),
        ("waving hand", "hand-fingers-open", False),
        ("one o’clock", "time", False),
        ("person running: facing right", "person-activity", False),
        ("first quarter moon", "sky-weather", False),
        ("oncoming taxi", "transport-ground", False),
        ("busts in silhouette", "person-symbol", True),
    ],
)
def test_mirrorable(caption, subgroup, expected):
    assert mirrorable(caption, subgroup) is expected


# Splits

PAIRS = [(f"{code:X}", artist) for code in range(2000) for artist in "abcde"[: 1 + code % 5]]


def test_splits_do_not_depend_on_order():
    assert split_pairs(PAIRS) == split_pairs(reversed(PAIRS))


def test_splits_are_the_same_for_ever():
    splits = split_pairs(PAIRS)
    sizes = Counter(splits.values())
    assert [sizes[split] for split in SPLITS] == [5559, 232, 209]


def test_held_out_pairs_leave_two_other_artists_in_train():
    splits = split_pairs(PAIRS)
    in_train = Counter(concept for (concept, _), split in splits.items() if split == TRAIN)
    held_out = {concept for (concept, _), split in splits.items() if split == HELD_OUT_PAIRS}
    assert min(in_train[concept] for concept in held_out) >= OTHERS_IN_TRAIN


def test_held_out_concepts_are_nowhere_else():
    splits_of = defaultdict(set)
    for (concept, _), split in split_pairs(PAIRS).items():
        splits_of[concept].add(split)
    assert all(
        splits == {HELD_OUT_CONCEPTS}
        for splits in splits_of.values()
        if HELD_OUT_CONCEPTS in splits
    )


def test_twins_stay_in_train():
    assert set(split_pairs(PAIRS, twins=PAIRS).values()) == {TRAIN}


# Building


@pytest.fixture
def fake_packages(tmp_path, monkeypatch) -> Path:
    """A folder of tiny packages, with sources that expect them."""
    folder = tmp_path / "packages"
    pack(
        folder / tarball_name(LABELS),
        {
            "en/data.json": json.dumps(ENTRIES).encode(),
            "meta/groups.json": json.dumps({"subgroups": SUBGROUPS}).encode(),
        },
    )
    pack(folder / "files-1.tgz", {"img/2764.png": png(), "img/1f40c.png": png(72, "blue")})
    pack(folder / "icons-1.tgz", icon_set({"snail": {"body": RED_SQUARE}}))
    sources = (dataclasses.replace(FILES, images=2), dataclasses.replace(ICONS, images=1))
    monkeypatch.setattr(building, "SOURCES", sources)
    monkeypatch.setattr("corpora.emoji.card.SOURCES", sources)
    # `datasets` reads no empty parquet, so each split gets one of the three images.
    monkeypatch.setattr(
        building, "split_pairs", lambda pairs, twins: dict(zip(sorted(pairs), SPLITS, strict=False))
    )
    return folder


def run(monkeypatch, *arguments: object) -> int:
    monkeypatch.setattr("sys.argv", ["corpora.emoji", *map(str, arguments)])
    return main()


def test_build_writes_what_datasets_loads(fake_packages, tmp_path, monkeypatch, capsys):
    out = tmp_path / "out"
    assert run(monkeypatch, "--out", out, "--packages", fake_packages) == 0
    assert sorted(file.name for file in out.iterdir()) == sorted(
        ["README.md", "credits.json", *(f"{split}.parquet" for split in SPLITS)]
    )
    files: Any = {split: str(out / f"{split}.parquet") for split in SPLITS}
    corpus = datasets.load_dataset("parquet", data_files=files, cache_dir=str(tmp_path / "cache"))
    assert isinstance(corpus, datasets.DatasetDict)
    assert corpus[TRAIN].features == building.FEATURES
    rows: dict[tuple[str, str], Any] = {
        (row["caption"], row["artist"]): row
        for row in datasets.concatenate_datasets(list(corpus.values())).to_list()
    }
    assert set(rows) == {("red heart", "noto"), ("snail", "noto"), ("snail", "blob")}
    heart = rows["red heart", "noto"]
    assert heart["image"]["bytes"] == png()
    assert heart["concept"] == "2764-FE0F"
    assert heart["keywords"] == ["love"]
    assert heart["mirrorable"] is True
    assert "total" in capsys.readouterr().out


def test_readme_lets_datasets_load_the_folder(fake_packages, tmp_path):
    building.build(tmp_path / "out", fake_packages)
    corpus = datasets.load_dataset(str(tmp_path / "out"), cache_dir=str(tmp_path / "cache"))
    assert set(corpus) == set(SPLITS)


def test_a_changed_count_stops_or_warns(fake_packages, tmp_path, monkeypatch, capsys):
    pack(fake_packages / "files-1.tgz", {"img/2764.png": png()})
    arguments = ("--out", tmp_path / "out", "--packages", fake_packages)
    assert run(monkeypatch, *arguments) == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith("error: files@1 gave 1 images where 2 were expected")
    assert list((tmp_path / "out").iterdir()) == []
    assert run(monkeypatch, *arguments, "--allow-changed-counts") == 0
    assert "warning: files@1 gave 1" in capsys.readouterr().err


@pytest.mark.parametrize("cut", [4, 40, 150])
def test_a_truncated_tarball_is_named(cut, fake_packages, tmp_path, monkeypatch, capsys):
    tarball = fake_packages / "files-1.tgz"
    tarball.write_bytes(tarball.read_bytes()[:-cut])
    assert run(monkeypatch, "--out", tmp_path / "out", "--packages", fake_packages) == 2
    assert capsys.readouterr().err.strip().splitlines()[-1] == (
        f"error: {tarball} cannot be read to its end: delete it and rerun"
    )


def test_a_tarball_that_is_none_is_named(tmp_path):
    tarball = tmp_path / "page.tgz"
    tarball.write_text("<html>")
    with pytest.raises(UserError, match=r"page\.tgz cannot be read"):
        list(members(tarball, lambda name: True))


def test_missing_npm_is_said(tmp_path, monkeypatch):
    monkeypatch.setattr(packages.shutil, "which", lambda name: None)
    with pytest.raises(UserError, match="npm is needed to fetch @a/b@1"):
        packages.fetch("@a/b@1", tmp_path)


def test_a_package_npm_cannot_fetch_is_named(tmp_path, monkeypatch):
    npm = tmp_path / "npm"
    npm.write_text("#!/bin/sh\necho 'npm error code E404' >&2\nexit 1\n")
    npm.chmod(0o755)
    monkeypatch.setattr(packages.shutil, "which", lambda name: str(npm))
    with pytest.raises(UserError, match=r"could not fetch @a/b@1 \(npm error code E404\)"):
        packages.fetch("@a/b@1", tmp_path / "packages")
    assert list((tmp_path / "packages").iterdir()) == []


def test_a_folder_that_cannot_be_written_is_named(fake_packages, tmp_path):
    (tmp_path / "taken").write_text("a file")
    with pytest.raises(UserError, match=r"cannot write to .*taken"):
        building.build(tmp_path / "taken", fake_packages)


def test_missing_resvg_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "resvg_py", None)
    with pytest.raises(UserError, match=r"pip install -e \.\[corpora\]"):
        images.render("<svg/>")


def test_an_interrupted_build_leaves_nothing(fake_packages, tmp_path, monkeypatch):
    def interrupt(summary):
        raise KeyboardInterrupt

    monkeypatch.setattr("corpora.emoji.card.readme", interrupt)
    with pytest.raises(KeyboardInterrupt):
        building.build(tmp_path / "out", fake_packages)
    assert list((tmp_path / "out").iterdir()) == []


def test_a_split_is_exported_as_files_named_by_caption_and_artist(
    fake_packages, tmp_path, monkeypatch, capsys
):
    building.build(tmp_path / "out", fake_packages)
    parquet, files = tmp_path / "out" / f"{TRAIN}.parquet", tmp_path / "new" / "files"
    monkeypatch.setattr("sys.argv", ["corpora.emoji.export", str(parquet), str(files)])
    assert export_main() == 0
    (name,) = [file.name for file in files.iterdir()]
    assert name == "snail - blob.png"
    with Image.open(files / name) as image:
        assert (image.mode, image.getpixel((0, 0))) == ("RGB", (255, 0, 0))
        assert image.getpixel((127, 0)) == (255, 255, 255)  # transparent there, so on white
    assert f"wrote 1 images to {files}" in capsys.readouterr().out


@pytest.mark.slow
def test_the_real_corpus(tmp_path):
    if shutil.which("npm") is None:
        pytest.skip("npm is not installed")
    summary = building.build(tmp_path / "out")
    assert {entry["artist"]: entry["pictures"] for entry in summary["artists"]} == {
        source.artist: source.images for source in SOURCES
    }
    pairs = summary["splits"][HELD_OUT_PAIRS] / summary["pictures"]
    concepts = summary["splits"][HELD_OUT_CONCEPTS] / summary["pictures"]
    assert 0.03 < pairs < 0.07
    assert 0.015 < concepts < 0.045

    labels = load_concepts(tmp_path / "out" / "packages" / tarball_name(LABELS))
    known = {concept.caption for concept in labels.by_hexcode.values()}
    assert set(RENAMED.values()) <= known
    assert {caption for caption in FXEMOJI.values() if caption} <= known
    shutil.rmtree(tmp_path / "out")  # pytest would keep these 250 MB
