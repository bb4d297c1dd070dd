"""Mixed sources: shares by weight, passes that show all images, captions and flips part by part."""

import io
from collections import Counter
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
from PIL import Image

from dalle_base.common.config import load_config
from dalle_base.common.errors import UserError
from dalle_base.data.batches import ImageDataset, Shuffled
from dalle_base.data.captions import vary_caption
from dalle_base.data.config import AugmentConfig, TextConfig
from dalle_base.data.forms import indefinite, short_names, takes_article, wordings
from dalle_base.data.sources import read_data_config
from dalle_base.data.sources.base import Joined, Record, Subset, captioned, first_with_same_image
from dalle_base.data.sources.mixture import MixtureConfig, MixtureSource, shares
from train_dalle import TrainDALLE

CONFIGS = Path(__file__).parents[1] / "configs"


class Named:
    """Records called NAME INDEX; the last has no caption where `gaps`."""

    def __init__(self, name: str, count: int, gaps: bool = False) -> None:
        self.name, self.count, self.gaps = name, count, gaps

    def __len__(self) -> int:
        return self.count

    def record(self, index: int) -> Record:
        image = Image.new("RGB", (8, 8), "red")
        return Record(f"{self.name} {index}", image, f"{self.name} {index}")

    def has_caption(self, index: int) -> bool:
        return not (self.gaps and index == self.count - 1)


def mixture(**weights: float) -> MixtureSource:
    """Ten images called big, three called small, one called one."""
    lengths = {"big": 10, "small": 3, "one": 1}
    return MixtureSource({name: Named(name, lengths[name]) for name in weights}, weights)


def names(source: Any) -> list[str]:
    return [source.record(i).name for i in range(len(source))]


def write_parquet(path: Path, rows: list[dict[str, Any]]) -> Path:
    content = io.BytesIO()
    half = Image.new("RGB", (8, 8), "red")
    half.paste("blue", (0, 0, 4, 8))
    half.save(content, "PNG")
    rows = [{"image": {"bytes": content.getvalue(), "path": None}, **row} for row in rows]
    datasets.Dataset.from_list(rows).cast_column("image", datasets.Image()).to_parquet(str(path))
    return path


def from_parts(parts: dict[str, Any]) -> MixtureConfig:
    config = read_data_config({"source": "mixture", "parts": parts}, "test")
    assert isinstance(config, MixtureConfig)
    return config


# Shares


@pytest.mark.parametrize(
    "weights", [{"big": 1, "small": 1}, {"big": 0.2, "small": 0.5, "one": 0.3}, {"small": 7}]
)
def test_a_pass_has_the_weights_shares_and_every_image(weights: dict[str, float]) -> None:
    source = mixture(**weights)
    total = sum(weights.values())
    for share, weight in zip(shares(source), weights.values(), strict=True):
        assert share == pytest.approx(weight / total, abs=1 / len(source))
    seen = Counter(names(source))
    lengths = {"big": 10, "small": 3, "one": 1}
    for name in weights:
        repeats = [seen[f"{name} {i}"] for i in range(lengths[name])]
        assert min(repeats) >= 1
        assert max(repeats) - min(repeats) <= 1


def test_a_pass_is_no_longer_than_it_must_be() -> None:
    assert len(mixture(small=7)) == 3
    assert len(mixture(big=1, small=1)) == 20
    assert len(mixture(big=10, small=3)) == 13


def test_an_image_that_repeats_can_be_told() -> None:
    source = mixture(big=0.2, small=0.5, one=0.3)
    called = names(source)
    for index, name in enumerate(called):
        assert first_with_same_image(source, index) == called.index(name)
    # Of a part of the indices an image's first may be missing: each then stands for itself.
    firsts = [called.index("small 0"), called.index("one 0")]
    some = Subset(source, [i for i in range(len(source)) if i not in firsts])
    called = names(some)
    for index, name in enumerate(called):
        is_cut = name in ("small 0", "one 0")
        assert first_with_same_image(some, index) == (index if is_cut else called.index(name))
    assert first_with_same_image(Named("plain", 5), 3) == 3
    assert ImageDataset(source, 8, None).first_with_same_image(11) == 10


def test_a_part_that_would_repeat_too_often_is_an_error_that_names_the_rare_one() -> None:
    with pytest.raises(UserError, match=r"parts\.one would repeat .* raise the weight of big"):
        mixture(big=0.01, one=0.99)


def test_the_order_is_a_function_of_the_seed_and_goes_on_where_it_stopped() -> None:
    source = mixture(big=0.6, small=0.4)
    whole = iter(Shuffled(len(source), 4, seed=3))
    keys = [next(whole) for _ in range(12)]
    resumed = iter(Shuffled(len(mixture(big=0.6, small=0.4)), 4, seed=3, start=7))
    assert [next(resumed) for _ in range(5)] == keys[7:]
    # A pass: each index once, so that shares hold in each pass and not only on average.
    flat = [index for batch in keys for index, _ in batch]
    assert sorted(flat[: len(source)]) == list(range(len(source)))


def test_records_without_a_caption_are_left_out_of_a_mixture_too() -> None:
    parts = {"whole": Named("whole", 4), "gaps": Named("gaps", 2, gaps=True)}
    source = captioned(MixtureSource(parts, {"whole": 1, "gaps": 1}))
    assert set(names(source)) == {"whole 0", "whole 1", "whole 2", "whole 3", "gaps 0"}


def test_joined_sources_come_one_after_the_other() -> None:
    joined = Joined([Named("a", 2), Named("none", 0), Named("b", 1)])
    assert names(joined) == ["a 0", "a 1", "b 0"]
    assert len(Joined([])) == 0


# From parquet files


@pytest.fixture
def parts(tmp_path: Path) -> dict[str, Any]:
    art = [{"caption": f"cat {i}", "by": "noto", "flips": True} for i in range(2)]
    icons = [{"caption": f"a red bell {i}", "thing": f"bell {i}"} for i in range(4)]
    return {
        "art": {
            "source": "datasets",
            "weight": 3,
            "path": str(write_parquet(tmp_path / "art.parquet", art)),
            "held_out_path": str(write_parquet(tmp_path / "art-held.parquet", art[:1])),
            "artist_column": "by",
            "mirrorable_column": "flips",
        },
        "icons": {
            "source": "datasets",
            "path": str(write_parquet(tmp_path / "icons.parquet", icons)),
            "held_out_path": str(write_parquet(tmp_path / "icons-held.parquet", icons[2:])),
        },
    }


def test_parts_have_their_own_columns_and_are_held_out_together(parts: dict[str, Any]) -> None:
    train, held_out = from_parts(parts).open()
    assert len(train) == 16
    assert Counter(train.record(i).artist for i in range(16)) == {"noto": 12, "": 4}
    captions = [held_out.record(i).caption for i in range(len(held_out))]
    assert captions == ["cat 0", "a red bell 2", "a red bell 3"]


def test_only_images_of_which_the_data_says_so_are_flipped(parts: dict[str, Any]) -> None:
    train, _ = from_parts(parts).open()
    options = AugmentConfig(crop=False, flip="mirrorable")
    images = ImageDataset(train, 8, options)
    flipped: dict[str, set[bool]] = {"noto": set(), "": set()}
    for index in range(len(train)):
        for seed in range(8):
            pixels = images[index, seed].pixels
            flipped[train.record(index).artist].add(bool(pixels[0, 0, 0] > 128))
    assert flipped == {"noto": {True, False}, "": {False}}


def test_a_weight_of_0_leaves_a_part_out(parts: dict[str, Any]) -> None:
    parts["art"] |= {"weight": 0, "path": "nowhere.parquet"}
    train, held_out = from_parts(parts).open()
    assert (len(train), len(held_out)) == (4, 2)


def test_parts_are_changed_from_the_command_line() -> None:
    file = ["--config", str(CONFIGS / "dalle/emoji-icons.yaml")]
    changes = ["data.parts.emoji.weight=2", "data.parts.coloured.path=other.parquet"]
    config = load_config(TrainDALLE, "", [*file, *changes]).data
    assert isinstance(config, MixtureConfig)
    assert config.weights()["emoji"] == 2
    assert config.parts["coloured"]["path"] == "other.parquet"
    assert config.parts["coloured"]["artist_column"] == "artist"


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"art": {"weight": 0}, "icons": {"weight": 0}}, r"weights of data\.parts sum to 0"),
        ({"art": {"weight": -1}}, r"parts\.art\.weight is -1: write a number, 0 or more"),
        ({"art": {"weight": "much"}}, r"parts\.art\.weight is 'much'"),
        ({"art": {"weight": float("inf")}}, r"parts\.art\.weight is inf"),
        ({"art": {"artist_colum": "by"}}, r"parts\.art: unknown key .*artist_column"),
        ({"art": {"source": "dataset"}}, r"parts\.art.*'dataset'"),
        ({"art": {"workers": 2}}, r"parts\.art\.workers is for all parts: set data\.workers"),
        ({"art": {"held_out_share": 2}}, r"parts\.art: data\.held_out_share"),
    ],
)
def test_bad_parts_are_one_line(parts: dict[str, Any], change: dict[str, Any], said: str) -> None:
    for name, options in change.items():
        parts[name] |= options
    with pytest.raises(UserError, match=said) as error:
        from_parts(parts)
    assert "\n" not in str(error.value)


def test_parts_with_nothing_in_them_are_named(parts: dict[str, Any]) -> None:
    with pytest.raises(UserError, match=r"data\.parts is empty"):
        from_parts({}).open()
    with pytest.raises(UserError, match=r"parts\.new has no source"):
        from_parts(parts | {"new": {"path": "x"}})
    with pytest.raises(UserError, match=r"parts\.new: data\.count is 0"):
        from_parts(parts | {"new": {"source": "shapes", "count": 0}})
    parts["art"]["path"] = "nowhere.parquet"
    with pytest.raises(UserError, match=r"no parquet file matches 'nowhere\.parquet'"):
        from_parts(parts).open()


# Wordings


@pytest.mark.parametrize(
    ("phrase", "article"),
    [
        *(
            ("apple", "an"),
            ("red apple", "a"),
            ("hour", "an"),
            ("unicorn", "a"),
            ("umbrella", "an"),
        ),
        *(
            ("one-piece swimsuit", "a"),
            ("onion", "an"),
            ("x-ray", "an"),
            ("ufo", "a"),
            ("euro", "a"),
        ),
        *(
            ("user", "a"),
            ("utensil", "a"),
            ("urn", "an"),
            ("orange bell", "an"),
            ("usb stick", "a"),
        ),
        *(("8 ball", "an"), ("sd card", "an"), ("house", "a"), ("ewe", "a"), ("uninstaller", "an")),
    ],
)
def test_articles_go_by_sound(phrase: str, article: str) -> None:
    assert indefinite(phrase) == f"{article} {phrase}"


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        *(("bell", True), ("bus", True), ("glass", True), ("lens", True), ("woman's boot", True)),
        *(("scissors", False), ("dice", False), ("water", False), ("two hearts", False)),
        *(("glass of milk", True), ("fish cake with swirl", True), ("musical notes", False)),
        *(("women with bunny ears", False), ("man in tuxedo", True), ("8 balls", False)),
    ],
)
def test_plurals_stuff_and_numbers_take_no_article(name: str, expected: bool) -> None:
    assert takes_article(name) is expected


def test_wordings_say_the_same_in_other_words() -> None:
    assert {"red heart", "a red heart", "red heart icon on white"} <= set(wordings("red heart"))
    assert "a scissors" not in wordings("scissors")
    assert "a scissors icon" in wordings("scissors")
    on_blue = wordings("bell", "orange", "blue")
    assert {"an orange bell icon on a blue background", "orange bell on blue"} <= set(on_blue)
    assert all("blue" in words and "orange bell" in words for words in on_blue)
    assert all("white" in w for w in wordings("bell", "red", "white") if " on " in w)
    assert wordings("flag: poland") == ()


BEFORE_WORDINGS = [
    *("red heart, noto style", "red heart", "red heart, noto style", "red heart love"),
    *("red heart", "red heart", "red heart, noto style", "red heart"),
]


def test_short_names_are_what_people_type() -> None:
    assert short_names("evergreen tree", ("forest", "tree", "winter")) == ("tree",)
    assert short_names("dog face", ("animal", "dog", "face")) == ("dog",)
    assert short_names("moon over hills", ("moon", "hills")) == ("moon",)
    assert short_names("automobile", ("car", "driving")) == ("car", "driving")
    assert short_names("tree", ("forest", "tree")) == ("forest", "tree")
    assert short_names("", ("x",)) == ("x",)
    assert short_names("bone", ("dog", "skeleton"), {"dog", "bone"}) == ("skeleton",)
    assert short_names("dog face", ("dog", "face"), {"dog"}) == ("dog",)
    assert short_names("bone", ("dog",), {"dog"}) == ()


def test_a_share_of_captions_is_short() -> None:
    record = Record("x", Path(), "evergreen tree", "noto", ("forest", "tree"), wordings=("a pine",))
    record = record._replace(short_names=("tree",))
    options = TextConfig(artist_share=0.0, keywords_share=0.0, short_share=0.5)
    seen = Counter(vary_caption(record, np.random.default_rng(i), options) for i in range(400))
    short = sum(seen[caption] for caption in wordings("tree"))
    assert 160 < short < 240
    assert seen["a tree"] > 0
    assert set(seen) <= {"evergreen tree", "a pine", *wordings("tree")}
    plain = record._replace(wordings=())
    assert {vary_caption(plain, np.random.default_rng(i), options) for i in range(50)} == {
        "evergreen tree",
        "tree",
    }
    assert vary_caption(
        record._replace(short_names=(), wordings=()), np.random.default_rng(0), options
    ) == ("evergreen tree")


def test_captions_without_wordings_are_varied_as_ever() -> None:
    """A fixed list: wordings must not shift the random numbers of runs that have none."""
    record = Record("", b"", "red heart", "noto", ("love", "like"))
    varied = [vary_caption(record, np.random.default_rng(i)) for i in range(8)]
    assert varied == BEFORE_WORDINGS
    spoken = record._replace(keywords=(), wordings=("a red heart", "red heart icon"))
    seen = Counter(vary_caption(spoken, np.random.default_rng(i)) for i in range(400))
    assert set(seen) == {
        words + style
        for words in ("red heart", "a red heart", "red heart icon")
        for style in ("", ", noto style")
    }
    assert 150 < seen["red heart"] + seen["red heart, noto style"] < 250


def test_wordings_come_from_the_columns_that_are_named(tmp_path: Path) -> None:
    row = {"caption": "a red bell icon", "thing": "bell", "colour": "red", "ground": "blue"}
    path = str(write_parquet(tmp_path / "a.parquet", [row]))
    columns = {"name_column": "thing", "colour_column": "colour", "ground_column": "ground"}
    options = {"source": "datasets", "path": path, "held_out_path": path, **columns}
    train, _ = read_data_config(options | {"caption_forms": True}, "test").open()
    assert "red bell on blue" in train.record(0).wordings
    plain, _ = read_data_config(options, "test").open()
    assert plain.record(0).wordings == ()
    with pytest.raises(UserError, match="no column 'shade'"):
        read_data_config(options | {"colour_column": "shade"}, "test").open()
