"""The icon corpus: names, colours, duplicates, splits, and a small package from end to end."""

import io
import json
import subprocess
import sys
import tarfile
from collections import Counter
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from corpora.emoji import packages
from corpora.emoji.splits import HELD_OUT_CONCEPTS, HELD_OUT_PAIRS, TRAIN, fraction
from corpora.icons import build as building
from corpora.icons import card, painting, reading, sets
from corpora.icons.__main__ import main
from corpora.icons.colours import COLOURS, colour_and_ground, shows_on
from corpora.icons.drawing import draw, filled, on_white, thumbnail
from corpora.icons.duplicates import distinct
from corpora.icons.mirror import mirrorable
from corpora.icons.names import caption_of, is_of_interface, is_sign, stem, styles_of
from corpora.icons.nouns import INDEXES, NOUNS, WORDNET, load_lexicon
from corpora.icons.sets import COLOURED, GLOSSY, GLOSSY_TWIN, ICON_PARK, PACKAGE, SILHOUETTES
from corpora.icons.splits import (
    HELD_OUT_COLOURS,
    EmojiCorpus,
    read_emoji,
    split_part,
    splits_of,
)
from dalle_base.common.errors import UserError

THINGS = ["bell", "star", "cat", "tree", "boat", "lamp"]


def pack(path: Path, files: dict[str, str]) -> Path:
    """A tarball as npm makes them."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w:gz") as archive:
        for name, text in files.items():
            member = tarfile.TarInfo(name)
            content = text.encode()
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return path


def box(x: int, y: int, width: int, height: int, colour: str = "currentColor") -> dict[str, str]:
    """An icon of a 16x16 square with one rectangle in it."""
    return {"body": f'<path fill="{colour}" d="M{x} {y}h{width}v{height}h-{width}z"/>'}


def icon_set(icons: dict[str, Any], licence: str = "MIT", **more: Any) -> str:
    info = {"name": "Shapes", "author": {"name": "Ann", "url": "https://a.example"}}
    info["license"] = {"spdx": licence}  # type: ignore[assignment]
    return json.dumps({"info": info, "icons": icons, "width": 16, "height": 16, **more})


def wordnet(folder: Path) -> Path:
    """A dictionary: a few things, an act, and two more words."""
    nouns = ["00001930 03 n 01 physical_entity 0 001 @ 00001740 n 0000 | gloss"]
    index = ["  1 the licence"]
    for number, word in enumerate([*THINGS, "alarm_clock", "walk"]):
        kind, parent = ("04", "00009999") if word == "walk" else ("06", "00001930")
        nouns.append(f"{number:08d} {kind} n 01 {word} 0 001 @ {parent} n 0000 | gloss | more")
        index.append(f"{word} n 1 1 @ 1 0 {number:08d}")
    index += ["half n 1 1 @ 1 0 77777777", "alarm n 2 1 @ 2 0 77777777 00000001"]
    files = dict.fromkeys(INDEXES, "  1 the licence\n")
    files |= {INDEXES[0]: "\n".join(index), NOUNS: "  1 the licence\n" + "\n".join(nouns)}
    files[INDEXES[2]] = "  1 the licence\nred a 1 1 ! 1 1 00000001\n"
    return pack(folder / packages.tarball_name(WORDNET), files)


# Names


@pytest.mark.parametrize(
    ("name", "suffixes", "expected"),
    [
        ("alarm-clock-24-filled", [], "alarm-clock"),
        ("home-outline-rounded", ["outline-rounded", "rounded"], "home"),
        ("traffic-light", [], "traffic-light"),
        ("traffic-light-light", ["light"], "traffic-light"),
        ("bell-one", [], "bell"),
        ("android1", [], "android"),
        ("t-shirt-2", [], "t-shirt"),
        ("24-hours", [], "24-hours"),
        ("heart-broken", [], "heart-broken"),
        ("h2", [], "h2"),
        ("solid", [], "solid"),
    ],
)
def test_styles_sizes_and_numbers_are_no_part_of_a_name(
    name: str, suffixes: list[str], expected: str
) -> None:
    assert stem(name, suffixes=suffixes) == expected


def test_a_set_says_what_its_styles_are() -> None:
    collection = {"suffixes": {"": "Line", "fill": "Fill", "bold-fill": "Bold"}, "prefixes": None}
    assert styles_of(collection) == ([], ["bold-fill", "fill"])
    assert stem("twotone-home", prefixes=["twotone"]) == "home"


@pytest.mark.parametrize(
    ("stemmed", "prefix", "expected"),
    [
        ("fruit-banana", "streamline-ultimate-color", "banana"),
        ("fruit-banana", "tabler", "fruit banana"),
        ("single-man-actions-check", "streamline-ultimate-color", "man check"),
        ("book-open", "mdi", "open book"),
        ("ubmrella", "flat-ui", "umbrella"),
        ("womans-boot", "streamline-emojis", "woman's boot"),
        ("south-korea", "streamline-emojis", "flag: south korea"),
        ("grin-tears", "glyphs-poly", "grin tears face"),
        ("family-man-man-girl", "streamline-emojis", "family man man girl"),
        ("t-shirt", "mdi", "t-shirt"),
    ],
)
def test_names_become_what_one_would_type(stemmed: str, prefix: str, expected: str) -> None:
    assert caption_of(stemmed, prefix) == expected


def test_signs_of_an_interface_are_told_from_things() -> None:
    assert is_of_interface("bell off")
    assert not is_of_interface("alarm clock")
    assert is_sign("chevron double")
    assert is_sign("up arrow")
    assert not is_sign("bow")


def test_things_are_told_by_the_dictionary(tmp_path: Path) -> None:
    lexicon = load_lexicon(wordnet(tmp_path))
    for thing in ("bell", "bells", "alarm clock", "red bell", "alarm"):
        assert lexicon.is_concrete(thing), thing
    for other in ("walk", "half", "bell half", "zorb bell", "a", "bell walk"):
        assert not lexicon.is_concrete(other), other
    assert lexicon.is_english("walking cats")
    assert not lexicon.is_english("xyzzy")
    assert not lexicon.is_english("x")


def test_a_dictionary_with_a_list_missing_is_named(tmp_path: Path) -> None:
    tarball = pack(tmp_path / "words.tgz", {NOUNS: ""})
    with pytest.raises(UserError, match=r"words\.tgz holds no package/dict/index\.adj: delete"):
        load_lexicon(tarball)


@pytest.mark.parametrize(
    ("concept", "expected"),
    [
        ("cat", True),
        ("bell", True),
        ("clock", False),
        ("flag: poland", False),
        ("left hand", False),
    ],
)
def test_what_may_be_flipped(concept: str, expected: bool) -> None:
    assert mirrorable(concept) is expected


# Colours and drawing


def test_colours_stand_out_from_their_grounds() -> None:
    seen = Counter()
    for number in range(2000):
        colour, ground = colour_and_ground(f"set/{number}")
        assert shows_on(colour, ground)
        seen[ground] += 1
        seen[f"in {colour}"] += 1
    assert 0.35 < seen["white"] / 2000 < 0.45
    assert all(seen[f"in {colour}"] and seen[colour] for colour in COLOURS)
    assert colour_and_ground("set/1") == colour_and_ground("set/1")
    assert shows_on("red", "green")
    assert not shows_on("brown", "red")


SVG = (
    '<svg xmlns="http://www.w3.org/2000/svg" width="64" height="64" viewBox="0 0 16 16">'
    '<path fill="#fff" d="M0 0h8v16H0z"/></svg>'
)


def test_icons_are_flattened_on_white_and_masks_filled() -> None:
    drawn = draw(SVG)
    assert drawn.shape == (64, 64, 4)
    assert (on_white(drawn) == 255).all()
    image = filled(drawn[..., 3], COLOURS["red"], COLOURS["blue"])
    assert tuple(image[0, 0]) == COLOURS["red"]
    assert tuple(image[0, 63]) == COLOURS["blue"]
    assert thumbnail(image).shape == (768,)
    assert thumbnail(drawn[..., 3]).tolist() == ([1.0] * 8 + [0.0] * 8) * 16


def test_half_transparent_areas_are_told_from_soft_edges() -> None:
    mask = np.zeros((64, 64), dtype=np.uint8)
    mask[:, :32] = 255
    mask[:, 32] = 128  # an edge; one column is as wide as edges get
    assert painting.faded_share(mask) == 0
    mask[:, 32:48] = 100
    assert painting.faded_share(mask) > 0.2


def naive_distinct(thumbnails: np.ndarray, tolerance: float, against: np.ndarray) -> list[bool]:
    kept, stays = list(against), []
    for row in thumbnails:
        near = any(np.sqrt(((row - other) ** 2).mean()) < tolerance for other in kept)
        stays.append(not near)
        kept += [] if near else [row]
    return stays


def test_near_duplicates_go_and_the_first_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("corpora.icons.duplicates.BLOCK", 4)
    generator = np.random.default_rng(0)
    one = generator.random((11, 30), dtype=np.float32)
    thumbnails = np.concatenate([one, one[3:9] + 0.02, generator.random((5, 30), np.float32)])
    against = np.concatenate([one[:2] - 0.01, thumbnails[-1:]])
    stays = distinct(thumbnails, 0.05, against)
    assert stays.tolist() == naive_distinct(thumbnails, 0.05, against)
    assert stays.sum() == 11 - 2 + 5 - 1
    assert distinct(thumbnails, 0.05)[:11].all()


# Splits

PAIRS = [(f"thing {n}", f"style {s}") for n in range(400) for s in range(1 + n % 5)]


def emoji(**splits: str) -> EmojiCorpus:
    """A corpus with these concepts, by the artist whose designs come again."""
    held_out = {name: split == HELD_OUT_CONCEPTS for name, split in splits.items()}
    return EmojiCorpus(held_out, dict(splits))


@pytest.mark.parametrize("part", [COLOURED, SILHOUETTES])
def test_splits_are_the_same_in_any_order_and_hold_out_what_train_has_apart(part: str) -> None:
    splits = split_part(part, PAIRS, EmojiCorpus())
    assert splits == split_part(part, [*reversed(PAIRS), PAIRS[0]], EmojiCorpus())
    middle = splits_of(part)[1]
    assert middle == (HELD_OUT_PAIRS if part == COLOURED else HELD_OUT_COLOURS)
    of = {split: {pair for pair in splits if splits[pair] == split} for split in splits_of(part)}
    assert all(of.values())
    held_out = {concept for concept, _ in of[HELD_OUT_CONCEPTS]}
    assert not held_out & {concept for concept, _ in of[TRAIN] | of[middle]}
    in_train = Counter(concept for concept, _ in of[TRAIN])
    assert min(in_train[concept] for concept, _ in of[middle]) >= 2


def test_concepts_are_held_out_where_the_emoji_corpus_holds_them_out() -> None:
    held = next(f"thing {n}" for n in range(400) if fraction(f"thing-{n}") < 0.03)
    corpus = EmojiCorpus({"woman-s-hat": True, "womans-hat": True, held.replace(" ", "-"): False})
    for part in (COLOURED, SILHOUETTES):
        splits = split_part(part, [("woman's hat", "a"), (held, "a")], corpus)
        assert splits == {("woman's hat", "a"): HELD_OUT_CONCEPTS, (held, "a"): TRAIN}


def test_glossy_art_goes_with_its_twin() -> None:
    corpus = emoji(cat=TRAIN, bell=HELD_OUT_PAIRS, star=HELD_OUT_CONCEPTS)
    pairs = [(name, GLOSSY) for name in ("cat", "bell", "star")]
    assert list(split_part(COLOURED, pairs, corpus).values()) == [
        *(TRAIN, HELD_OUT_PAIRS, HELD_OUT_CONCEPTS)
    ]


def test_artists_of_the_emoji_corpus_count_as_others() -> None:
    name, style = next(
        pair for pair in PAIRS if fraction("/".join(pair).replace(" ", "-", 1)) < 0.05
    )
    alone = [(name, style)]
    known = EmojiCorpus({name.replace(" ", "-"): False})
    assert split_part(COLOURED, alone, known) == {(name, style): TRAIN}
    known.artists[name.replace(" ", "-")] = 2
    assert split_part(COLOURED, alone, known) == {(name, style): HELD_OUT_PAIRS}


# From end to end


@pytest.fixture
def files(monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """A package of one coloured set, icon-park and three sets of one colour, and their table."""
    coloured = {
        "cat-16": box(1, 1, 9, 9, "#f00") | {"width": 8, "height": 8},
        "star": box(0, 0, 16, 8, "#00f"),
        "star-again": box(0, 0, 16, 8, "#00e"),
        "blank": box(0, 0, 16, 16, "#fff"),
        "xyzzy": box(0, 0, 9, 16, "#f00"),
        "bell-duo": box(3, 3, 9, 9, "#0f0"),
    }
    park = {
        "tree": box(0, 0, 12, 12, "#2F88FF"),
        "boat-one": box(2, 2, 12, 12, "#000"),
        "walk": box(4, 0, 12, 12, "#2F88FF"),
    }
    files = {
        "package/package.json": json.dumps(
            {"name": "@iconify/json", "version": PACKAGE.rpartition("@")[2]}
        ),
        "package/json/gloss.json": icon_set(coloured),
        "package/json/icon-park.json": icon_set(park, "Apache-2.0"),
        "package/json/unused.json": "not read",
    }
    for number, prefix in enumerate(("one", "two", "three")):
        icons = {thing: box(k, 0, 9 + number, 12) for k, thing in enumerate(THINGS[:5])}
        icons |= {"lamp": box(0, 0, 3, 3), f"rare-{number}-boat": box(0, 0, 15, 15)}
        icons |= {"bell-off": box(0, 0, 14, 14), "cat-filled": box(2, 0, 9 + number, 12)}
        aliases = {"chime": {"parent": "bell"}, "left-bell": {"parent": "bell", "hFlip": True}}
        files[f"package/json/{prefix}.json"] = icon_set(icons, "ISC", aliases=aliases)
    monkeypatch.setattr(
        sets,
        "_COLOURED_SETS",
        (
            sets.IconSet("gloss", 6, "gloss", COLOURED, left_out="-duo"),
            sets.IconSet("icon-park", 3, "icon park", ICON_PARK),
        ),
    )
    monkeypatch.setattr(sets, "_MONOCHROME", "one:9 two:9 three:9")
    return files


@pytest.fixture
def folder(tmp_path: Path, files: dict[str, str]) -> Path:
    """The folder of tarballs."""
    wordnet(tmp_path / "packages")
    pack(tmp_path / "packages" / packages.tarball_name(PACKAGE), files)
    return tmp_path / "packages"


def repack(folder: Path, files: dict[str, str]) -> None:
    pack(folder / packages.tarball_name(PACKAGE), files)


def run(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> int:
    monkeypatch.setattr("sys.argv", ["corpora.icons", *map(str, arguments)])
    return main()


def rows_of(out: Path, part: str) -> dict[str, list[dict[str, Any]]]:
    return {s: pq.read_table(out / f"{part}-{s}.parquet").to_pylist() for s in splits_of(part)}


def test_a_small_package_becomes_a_corpus(
    folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)  # where there is no emoji corpus
    out = tmp_path / "out"
    assert run(monkeypatch, "--out", out, "--packages", folder) == 0
    said = capsys.readouterr()
    assert f"building {out} from {PACKAGE}" in said.err
    assert "coloured: 2 concepts" in said.out

    rows = {part: [r for s in rows_of(out, part).values() for r in s] for part in sets.PARTS}
    # The duplicate, the blank, the unknown word and the "duo" are gone.
    assert sorted(row["caption"] for row in rows[COLOURED]) == ["cat", "star"]
    (tree,) = rows[ICON_PARK]
    assert tree["caption"].endswith(f"{tree['colour']} tree icon")
    with Image.open(io.BytesIO(tree["image"]["bytes"])) as image:
        assert (image.size, image.mode) == ((64, 64), "RGB")
        assert image.getpixel((5, 5)) == COLOURS[tree["colour"]]
    silhouettes = rows[SILHOUETTES]
    counts = Counter(row["concept"] for row in silhouettes)
    # Three sets draw each thing; the second cat is the first again, and lamps have too little ink.
    assert counts == {"bell": 3, "star": 3, "cat": 3, "tree": 3, "boat": 3}
    for row in silhouettes:
        assert row["caption"].endswith(f"{row['ground']} background")
        with Image.open(io.BytesIO(row["image"]["bytes"])) as image:
            assert image.getpixel((63, 63)) == COLOURS[row["ground"]]
            colours = {pixel for _, pixel in image.getcolors() or []}
        assert COLOURS[row["colour"]] in colours
    bell = next(row for row in silhouettes if row["concept"] == "bell")
    assert (bell["keywords"], bell["licence"], bell["author"]) == (["chime"], "ISC", "Ann")
    assert bell["mirrorable"] is True

    summary = json.loads((out / "credits.json").read_text())
    assert summary["pictures"] == 2 + 1 + 15
    assert {entry["set"]: entry["pictures"] for entry in summary["sets"]} == {
        **{"gloss": 2, "icon-park": 1},
        **{"one": 5, "two": 5, "three": 5},
    }
    assert summary["splits"][SILHOUETTES] == {
        s: len(r) for s, r in rows_of(out, SILHOUETTES).items()
    }
    assert (
        "| three | silhouettes | three | 5 | [Shapes by Ann](https://a.example) | ISC |"
        in (out / "README.md").read_text()
    )
    with Image.open(out / building.SHEET) as sheet:
        assert sheet.width > 16 * 64


def test_a_second_build_is_the_same_to_the_byte(folder: Path, tmp_path: Path) -> None:
    for name in ("one", "two"):
        building.build(tmp_path / name, folder)
    for file in (tmp_path / "one").iterdir():
        assert file.read_bytes() == (tmp_path / "two" / file.name).read_bytes(), file.name


def test_datasets_reads_the_images_of_a_split(folder: Path, tmp_path: Path) -> None:
    building.build(tmp_path / "out", folder)
    file = str(tmp_path / "out" / f"{SILHOUETTES}-{TRAIN}.parquet")
    table: Any = datasets.load_dataset(
        "parquet", data_files=file, split="train", cache_dir=str(tmp_path / "cache")
    )
    assert table.features == building.FEATURES
    assert table[0]["image"].size == (64, 64)


def test_art_of_the_emoji_corpus_is_left_out_and_its_concepts_followed(
    folder: Path, tmp_path: Path
) -> None:
    drawn = on_white(
        draw(SVG.replace("#fff", "#00f").replace("h8v16", "h16v8").replace("H0", "H0"))
    )
    content = io.BytesIO()
    Image.fromarray(drawn).save(content, "PNG")
    for split, caption in ((TRAIN, "sun"), (HELD_OUT_PAIRS, "moon"), (HELD_OUT_CONCEPTS, "tree")):
        row = {"caption": caption, "artist": "noto", "image": {"bytes": content.getvalue()}}
        (tmp_path / "emoji").mkdir(exist_ok=True)
        pq.write_table(pa.Table.from_pylist([row]), tmp_path / "emoji" / f"{split}.parquet")
    building.build(tmp_path / "out", folder, tmp_path / "emoji")
    coloured = [r for s in rows_of(tmp_path / "out", COLOURED).values() for r in s]
    assert [row["caption"] for row in coloured] == ["cat"]  # the star is drawn there
    held_out = rows_of(tmp_path / "out", SILHOUETTES)[HELD_OUT_CONCEPTS]
    assert "tree" in {row["concept"] for row in held_out}
    assert [r["concept"] for r in rows_of(tmp_path / "out", ICON_PARK)[HELD_OUT_CONCEPTS]] == [
        "tree"
    ]


def test_art_of_the_glossy_twin_may_come_again(tmp_path: Path) -> None:
    for split in (TRAIN, HELD_OUT_PAIRS, HELD_OUT_CONCEPTS):
        rows = [
            {"caption": f"{split} one", "artist": GLOSSY_TWIN, "image": {"bytes": b"twin"}},
            {"caption": f"{split} one", "artist": "noto", "image": {"bytes": b"noto"}},
        ]
        pq.write_table(pa.Table.from_pylist(rows), tmp_path / f"{split}.parquet")
    corpus = read_emoji(tmp_path)
    assert set(corpus.images) == {b"noto"}
    assert corpus.glossy["train-one"] == TRAIN
    assert corpus.artists["train-one"] == 2
    assert corpus.artists["held-out-pairs-one"] == 0


# What can go wrong


def test_a_set_that_is_gone_is_named(
    folder: Path,
    files: dict[str, str],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    del files["package/json/two.json"]
    repack(folder, files)
    assert run(monkeypatch, "--out", tmp_path / "out", "--packages", folder) == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith("error: ")
    assert "holds no set two: delete it and rerun" in error
    assert list((tmp_path / "out").iterdir()) == []


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"icons": {"bell": box(0, 0, 9, 9)}}, "gave 1 icons of the set two where 9 were expected"),
        ({"licence": "GPL-3.0"}, r"the set two under GPL-3\.0"),
    ],
)
def test_a_set_that_has_changed_is_named(
    change: dict[str, Any], said: str, folder: Path, files: dict[str, str], tmp_path: Path
) -> None:
    icons = json.loads(files["package/json/two.json"])["icons"]
    files["package/json/two.json"] = icon_set(**({"icons": icons} | change))
    repack(folder, files)
    with pytest.raises(UserError, match=said):
        building.build(tmp_path / "out", folder)


def test_another_version_of_the_package_is_named(
    folder: Path, files: dict[str, str], tmp_path: Path
) -> None:
    files["package/package.json"] = '{"name": "@iconify/json", "version": "2.2.1"}'
    repack(folder, files)
    with pytest.raises(
        UserError, match=r"holds @iconify/json@2\.2\.1, not @iconify/json@2\.2\.535"
    ):
        building.build(tmp_path / "out", folder)


def test_missing_npm_and_missing_resvg_are_said_before_anything_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(packages.shutil, "which", lambda name: None)
    with pytest.raises(UserError, match=r"npm is needed .* put .*\.tgz into"):
        building.build(tmp_path / "out")
    monkeypatch.setitem(sys.modules, "resvg_py", None)
    with pytest.raises(UserError, match=r"pip install -e \.\[corpora\]"):
        building.build(tmp_path / "out")


def test_a_folder_without_an_emoji_corpus_is_named(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"train\.parquet is no split of the emoji corpus"):
        building.build(tmp_path / "out", folder, tmp_path / "nowhere")


def test_an_interrupted_build_leaves_the_earlier_one(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    building.build(out, folder)
    before = {file.name: file.read_bytes() for file in out.iterdir()}

    def interrupt(summary: object) -> str:
        raise KeyboardInterrupt

    monkeypatch.setattr(card, "readme", interrupt)
    with pytest.raises(KeyboardInterrupt):
        building.build(out, folder)
    assert {file.name: file.read_bytes() for file in out.iterdir()} == before


def test_signs_are_capped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "SIGNS_OF_A_SET", 2)
    each = sets.IconSet("gloss", 0, "gloss", COLOURED)
    icons = [reading.Icon(each, str(n), c) for n, c in enumerate(["arrow", "cat", *["caret"] * 5])]
    kept = reading._fewer_signs(icons)
    assert [icon.concept for icon in kept] == ["arrow", "cat", "caret"]


def test_of_several_sizes_the_largest_is_taken() -> None:
    sizes = {f"home-{n}{style}": {"height": n} for n in (16, 24) for style in ("", "-filled")}
    icons = sizes | {"route-66": {"height": 24}, "bell": {}}
    assert reading._largest(list(icons), {"icons": icons}) == [
        *("home-24", "home-24-filled", "route-66", "bell")
    ]


def test_help_answers_without_reading_anything() -> None:
    code = (
        "import sys; sys.argv = ['x', '--help']\n"
        "from corpora.icons.__main__ import main\n"
        "try: main()\nexcept SystemExit: pass\n"
        "assert not {'torch', 'datasets', 'pyarrow'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parents[1])
