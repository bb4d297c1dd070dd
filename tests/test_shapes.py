"""The shapes corpus: what it draws is what it says, and the checker can tell when it is not."""

import csv
import dataclasses
import itertools
import re
import runpy
import sys
from collections import Counter

import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFilter

from dalle_base.common.errors import UserError
from dalle_base.data.shapes import (
    COLOURS,
    HELD_OUT_PAIRS,
    KINDS,
    PALETTE,
    RELATIONS,
    SHAPES,
    SIZES,
    SYNONYMS,
    CheckResult,
    Description,
    Relation,
    Scene,
    SceneObject,
    Specification,
    caption,
    check,
    described_scene,
    edits,
    example,
    parse_caption,
    random_scene,
    read_objects,
    render,
    summarise,
    wrong_scenes,
)
from dalle_base.data.sources.shapes import ShapesConfig

SPLITS = ("train", "test", "compositional")
GOLDEN_CAPTION = (
    "a picture of a small turquoise box to the right of a black plus, "
    "and a tiny cyan cross beneath the black cross"
)


def spoil(image: Image.Image, rng: np.random.Generator, noise: float = 13.0) -> Image.Image:
    """What a tokenizer does to an image: soft edges and wrong colours, 25 to 26 dB PSNR."""
    soft = np.asarray(image.filter(ImageFilter.GaussianBlur(0.8)), dtype=float)
    return Image.fromarray((soft + rng.normal(0, noise, soft.shape)).clip(0, 255).astype(np.uint8))


def fractions(result: CheckResult) -> dict[str, float]:
    """For each kind of attribute that a caption states, the fraction that holds."""
    stated = {kind: getattr(result, kind) for kind in KINDS}
    return {kind: sum(held) / len(held) for kind, held in stated.items() if held}


def specification(scene: Scene) -> Specification:
    """A scene's meaning, without positions, with every size."""
    described = (Description(o.colour, o.shape, o.size) for o in scene.objects)
    return Specification(tuple(described), scene.relations)


def psnr(first: Image.Image, second: Image.Image) -> float:
    error = np.asarray(first, dtype=float) - np.asarray(second, dtype=float)
    return float(10 * np.log10(255**2 / np.mean(error**2)))


# The checker against the renderer


@pytest.mark.parametrize(
    "indices",
    [range(300), pytest.param(range(300, 2000), marks=pytest.mark.slow)],
    ids=["share", "rest"],
)
def test_every_clean_image_satisfies_its_caption(indices: range):
    for index in indices:
        split = SPLITS[index % 3]
        image, words = example(split, 0, index)
        result = check(image, words)
        assert result.exact, (split, index, words, result)


def test_checker_reads_through_blur_and_noise():
    rng = np.random.default_rng(0)
    results, losses = [], []
    for index in range(150):
        image, words = example("train", 1, index)
        spoilt = spoil(image, rng)
        losses.append(psnr(image, spoilt))
        results.append(check(spoilt, words))
    assert 24.5 < np.mean(losses) < 26.5
    assert summarise(results)["exact"] >= 0.99


@pytest.mark.parametrize("radius", [1.2, 1.8])
def test_checker_reads_strongly_blurred_images(radius: float):
    blur = ImageFilter.GaussianBlur(radius)
    examples = [example("train", 2, index) for index in range(150)]
    rates = summarise(check(image.filter(blur), words) for image, words in examples)
    assert rates["exact"] >= 0.97, rates


@pytest.mark.parametrize("size", [32, 64, 128])
def test_images_of_other_sizes_show_the_same_scenes(size: int):
    for index in range(50):
        image, words = example("test", 3, index, size)
        assert (image.mode, image.size) == ("RGB", (size, size))
        assert words == example("test", 3, index)[1]
        assert check(image, words).exact, (index, words)


def test_positions_and_widths_are_read_within_a_pixel():
    for index in range(200):
        scene, _ = described_scene("train", 4, index)
        seen = {(o.colour, o.shape): o for o in read_objects(render(scene))}
        for thing in scene.objects:
            read = seen[thing.colour, thing.shape]
            for name in ("x", "y", "width"):
                assert abs(getattr(read, name) - getattr(thing, name)) < 1 / 64, (thing, read)


# The checker against images that owe nothing to the renderer


def hand_drawn() -> Image.Image:
    image = Image.new("RGB", (64, 64), "white")
    draw = ImageDraw.Draw(image)
    draw.ellipse((24, 4, 36, 16), fill=(30, 60, 210))
    draw.rectangle((20, 30, 42, 52), fill=(210, 30, 40))
    return image


@pytest.mark.parametrize(
    ("words", "failed"),
    [
        ("a small blue circle above a large red square", ()),
        ("under a little blue disc is a big red box.", ()),
        ("a blue circle over a red square", ()),
        ("a small blue circle below a large red square", ("relation",)),
        ("a small blue circle left of a large red square", ("relation",)),
        ("a large blue circle above a large red square", ("size",)),
        ("a blue heart above a red square", ("shape",)),
        ("a blue circle above an orange square", ("colour",)),
        ("a blue circle", ("count",)),
        ("a red circle above a blue square", ("colour",)),
        ("a blue star above a green square", ("colour", "shape")),
    ],
)
def test_checker_on_an_image_drawn_by_hand(words: str, failed: tuple[str, ...]):
    result = check(hand_drawn(), words)
    assert result.failed == failed
    assert result.exact == (not failed)


def test_result_counts_each_kind_of_attribute():
    result = check(
        hand_drawn(),
        "a small blue circle above a red star, and a green cross right of the red star",
    )
    assert result.count == (False,)
    assert result.colour == (True, True, False)
    assert result.shape == (True, False, False)
    assert result.size == (True,)
    assert result.relation == (True, False)
    assert fractions(result) == {
        "count": 0, "colour": 2 / 3, "shape": 1 / 3, "size": 1, "relation": 0.5,
    }  # fmt: skip


def test_summary_pools_attributes_and_leaves_out_what_no_caption_states():
    results = [
        check(hand_drawn(), "a blue circle above a red star"),
        check(hand_drawn(), "a blue circle"),
    ]
    rates = summarise(results)
    assert rates == {"exact": 0, "count": 0.5, "colour": 1, "shape": 2 / 3, "relation": 1}
    with pytest.raises(UserError):
        summarise([])


def test_an_empty_image_satisfies_nothing():
    result = check(Image.new("RGB", (64, 64), "white"), "a small red star above a blue circle")
    assert result.failed == ("count", "colour", "shape", "size", "relation")
    assert set(fractions(result).values()) == {0}


def test_specks_are_ignored_and_further_objects_are_not():
    image = hand_drawn()
    draw = ImageDraw.Draw(image)
    draw.rectangle((2, 2, 5, 5), fill=(0, 0, 0))
    draw.rectangle((55, 40, 58, 43), fill=PALETTE["green"])
    assert check(image, "a blue circle above a red square").exact
    draw.rectangle((48, 4, 59, 15), fill=PALETTE["green"])
    assert check(image, "a blue circle above a red square").failed == ("count",)


def test_touching_objects_of_two_colours_are_told_apart():
    image = Image.new("RGB", (64, 64), "white")
    draw = ImageDraw.Draw(image)
    draw.rectangle((10, 20, 32, 42), fill=PALETTE["purple"])
    draw.rectangle((33, 20, 55, 42), fill=PALETTE["orange"])
    assert check(image, "a large purple square left of a large orange square").exact


def test_a_shape_like_no_other_is_unknown():
    image = Image.new("RGB", (64, 64), "white")
    ImageDraw.Draw(image).ellipse((10, 20, 50, 40), fill=PALETTE["black"])
    (seen,) = read_objects(image)
    assert (seen.colour, seen.shape) == ("black", "unknown")
    assert check(image, "a black circle").failed == ("shape",)


def test_any_square_image_can_be_read():
    rng = np.random.default_rng(5)
    check(Image.new("RGB", (64, 64), "black"), "a black square")
    for _ in range(5):
        noise = rng.integers(0, 256, (40, 40, 3), dtype=np.uint8)
        patches = Image.fromarray(noise[::8, ::8]).resize((64, 64), Image.Resampling.NEAREST)
        assert len(read_objects(patches)) <= 6
        assert not check(Image.fromarray(noise), "a red star").exact
    with pytest.raises(UserError, match="square"):
        read_objects(Image.new("RGB", (64, 32)))


# One wrong attribute


def other(rng: np.random.Generator, names: tuple[str, ...], than: str) -> str:
    return str(rng.choice([name for name in names if name != than]))


def with_wrong_object(scene: Scene, kind: str, rng: np.random.Generator) -> tuple[Scene, int]:
    """The scene with one object's attribute altered, and that object's index."""
    names = {"colour": COLOURS, "shape": SHAPES, "size": SIZES}[kind]
    while True:
        index = int(rng.integers(len(scene.objects)))
        old = scene.objects[index]
        new = dataclasses.replace(old, **{kind: other(rng, names, getattr(old, kind))})
        objects = (*scene.objects[:index], new, *scene.objects[index + 1 :])
        if len({(o.colour, o.shape) for o in objects}) == len(objects):
            return dataclasses.replace(scene, objects=objects), index


def wrong_caption(scene: Scene, kind: str, rng: np.random.Generator) -> str:
    """A caption that is wrong about the scene in one attribute of this kind."""
    if kind == "relation":
        first, *rest = scene.relations
        wrong = dataclasses.replace(first, name=other(rng, RELATIONS, first.name))
        return caption(dataclasses.replace(scene, relations=(wrong, *rest)), rng)
    if kind == "count":
        kept = (scene.relations[0].subject, scene.relations[0].object)
        keep = kept if len(scene.objects) == 3 else kept[:1]
        stated = (Relation(0, scene.relations[0].name, 1),) if len(keep) == 2 else ()
        return caption(Scene(tuple(scene.objects[i] for i in keep), stated), rng)
    altered, index = with_wrong_object(scene, kind, rng)
    thing = altered.objects[index]
    while True:
        words = caption(altered, rng)
        stated_sizes = {(o.colour, o.shape): o.size for o in parse_caption(words).objects}
        if kind != "size" or stated_sizes[thing.colour, thing.shape]:
            return words


@pytest.mark.parametrize("kind", ["count", "colour", "shape", "size", "relation"])
def test_one_wrong_attribute_is_found_and_nothing_else(kind: str):
    rng = np.random.default_rng(6)
    for index in range(100):
        least = 2 if kind in ("count", "relation") else 1
        scene = random_scene(rng, objects=int(rng.integers(least, 4)))
        words = wrong_caption(scene, kind, rng)
        assert check(render(scene), words).failed == (kind,), (index, scene, words)


def test_a_caption_with_an_object_too_many_is_not_exact():
    rng = np.random.default_rng(7)
    for _ in range(50):
        scene = random_scene(rng, objects=3)
        kept = (scene.relations[0].subject, scene.relations[0].object)
        shown = Scene(tuple(scene.objects[i] for i in kept))
        result = check(render(shown), caption(scene, rng))
        assert "count" in result.failed
        assert sum(result.colour) == sum(result.shape) == 2


# Scenes


@pytest.mark.parametrize("objects", [1, 2, 3])
def test_scenes_are_laid_out_as_promised(objects: int):
    rng = np.random.default_rng(8)
    for _ in range(200):
        scene = random_scene(rng, objects=objects)
        assert len(scene.objects) == objects
        for thing in scene.objects:
            pixels = thing.width * 64
            assert 12 <= pixels <= 14 if thing.size == "small" else 21 <= pixels <= 24
            for centre in (thing.x, thing.y):
                assert centre - thing.width / 2 >= 2 / 64
                assert centre + thing.width / 2 <= 62 / 64
        for a, b in itertools.combinations(scene.objects, 2):
            centres = max(abs(a.x - b.x), abs(a.y - b.y))
            assert centres - (a.width + b.width) / 2 >= 4.99 / 64
            assert (a.colour, a.shape) != (b.colour, b.shape)
        assert_relations_hold(scene)


def assert_relations_hold(scene: Scene) -> None:
    assert len(scene.relations) == len(scene.objects) - 1
    joined = {0}
    for _ in scene.relations:
        for r in scene.relations:
            joined |= {r.subject, r.object} if joined & {r.subject, r.object} else set()
    assert joined == set(range(len(scene.objects)))
    for r in scene.relations:
        a, b = scene.objects[r.subject], scene.objects[r.object]
        lead = {"left of": b.x - a.x, "right of": a.x - b.x, "above": b.y - a.y, "below": a.y - b.y}
        first, second = sorted(lead.values())[:1:-1]
        assert lead[r.name] == first
        assert first - second >= 5.99 / 64


def test_scenes_are_varied():
    scenes = [described_scene("train", 9, index)[0] for index in range(1000)]
    counts = Counter(len(scene.objects) for scene in scenes)
    assert counts[1] > 150
    assert min(counts[2], counts[3]) > 320
    things = [o for scene in scenes for o in scene.objects]
    for names, kind in ((COLOURS, "colour"), (SHAPES, "shape"), (SIZES, "size")):
        seen = Counter(getattr(o, kind) for o in things)
        assert min(seen[name] for name in names) > 0.7 * len(things) / len(names), seen
    assert len({(o.colour, o.shape) for o in things}) == 48 - len(HELD_OUT_PAIRS)


# Splits


def facts(meaning: Specification) -> frozenset:
    """A specification without sizes, in a form that no order of telling changes."""
    pairs = [(o.colour, o.shape) for o in meaning.objects]
    told = set()
    for r in meaning.relations:
        told |= {(pairs[r.subject], r.name, pairs[r.object])}
        told |= {(pairs[r.object], RELATIONS[RELATIONS.index(r.name) ^ 1], pairs[r.subject])}
    return frozenset(pairs) | told


def test_no_caption_of_one_split_describes_a_scene_of_another():
    meanings = {
        split: {facts(parse_caption(described_scene(split, 10, i)[1])) for i in range(300)}
        for split in SPLITS
    }
    for first, second in itertools.combinations(SPLITS, 2):
        assert not meanings[first] & meanings[second]
    assert len(meanings["test"]) > 175


def test_split_does_not_depend_on_telling_or_sizes():
    rng = np.random.default_rng(11)
    for index in range(300):
        split = SPLITS[index % 3]
        scene = random_scene(rng, split)
        assert specification(scene).split() == split
        assert parse_caption(caption(scene, rng)).split() == split


def test_held_out_pairs_occur_in_compositional_scenes_only():
    assert len({c for c, _ in HELD_OUT_PAIRS}) == len({s for _, s in HELD_OUT_PAIRS}) == 4
    found = set()
    for index in range(300):
        for split in SPLITS:
            objects = described_scene(split, 12, index)[0].objects
            held_out = {(o.colour, o.shape) for o in objects} & HELD_OUT_PAIRS
            assert bool(held_out) == (split == "compositional")
            found |= held_out
    assert found == HELD_OUT_PAIRS


def test_odds_of_objects_are_those_of_training_scenes_alone():
    training, held_out = ShapesConfig(count=300, object_odds=[0, 0.1, 0.3]).open()
    counts = Counter(
        len(parse_caption(training.record(i).caption or "").objects) for i in range(300)
    )
    assert set(counts) == {2, 3}
    assert 200 < counts[3] < 250
    assert held_out.record(5).caption == example("test", 0, 5)[1]
    assert ShapesConfig().open()[0].record(5).caption == example("train", 0, 5)[1]


@pytest.mark.parametrize("odds", [[1.0], [0.0, 0.0, 0.0], [0.2, 0.2, 0.2, 0.2]])
def test_odds_that_are_none_are_one_line(odds):
    with pytest.raises(UserError, match="write three numbers"):
        ShapesConfig(object_odds=odds).validate()


def test_a_tenth_goes_to_test_and_is_the_same_for_ever():
    pairs = [p for p in itertools.product(COLOURS, SHAPES) if p not in HELD_OUT_PAIRS]
    single = [p for p in pairs if Specification((Description(*p),)).split() == "test"]
    assert single == [
        ("orange", "heart"), ("green", "triangle"), ("blue", "square"), ("black", "circle"),
    ]  # fmt: skip
    double = [
        Specification((Description(*a), Description(*b)), (Relation(0, name, 1),)).split()
        for (a, b), name in itertools.product(itertools.combinations(pairs, 2), RELATIONS)
    ]
    assert 0.08 < double.count("test") / len(double) < 0.12


def test_unknown_splits_and_numbers_are_user_errors():
    rng = np.random.default_rng(0)
    with pytest.raises(UserError, match="split"):
        random_scene(rng, "validation")  # pyright: ignore[reportArgumentType]
    with pytest.raises(UserError, match="split"):
        example("validation", 0, 0)  # pyright: ignore[reportArgumentType]
    with pytest.raises(UserError, match="objects"):
        random_scene(rng, objects=4)
    with pytest.raises(UserError, match="negative"):
        example("train", -1, 0)
    with pytest.raises(UserError, match="pixels"):
        example("train", 0, 0, size=8)


# Scenes that are wrong on purpose


def apart(scene: Scene) -> bool:
    """Whether objects are inside the frame, and no two boxes meet."""
    boxes = [(o.x - o.width / 2, o.y - o.width / 2, o.width) for o in scene.objects]
    inside = all(x > 0 and y > 0 and x + w < 1 and y + w < 1 for x, y, w in boxes)
    return inside and not any(
        ax < bx + bw and bx < ax + aw and ay < by + bh and by < ay + ah
        for (ax, ay, aw), (bx, by, bw) in itertools.combinations(boxes, 2)
        for ah, bh in [(aw, bw)]
    )


def test_edits_go_wrong_in_what_they_are_called_for():
    rng = np.random.default_rng(17)
    failed: dict[str, Counter[tuple[str, ...]]] = {"moved": Counter(), "left_out": Counter()}
    narrow = 0
    for _ in range(60):
        scene = random_scene(rng)
        words = caption(scene, rng)
        for name, counts in failed.items():
            for wrong in getattr(edits, name)(scene, rng)[:3]:
                assert apart(wrong)
                counts[check(render(wrong), words).failed] += 1
                moves = [
                    abs(a.x - b.x) + abs(a.y - b.y)
                    for a, b in zip(scene.objects, wrong.objects, strict=False)
                ]
                narrow += name == "moved" and sum(moves) < 0.2
    # Two objects on a diagonal are neither beside nor above each other: read as either.
    assert set(failed["moved"]) <= {("relation",), ()}
    assert failed["moved"][("relation",)] > 5 * failed["moved"][()]
    assert all("count" in kinds for kinds in failed["left_out"])
    assert narrow > 3


def test_edits_come_as_often_as_they_are_said_to():
    rng = np.random.default_rng(18)
    scenes = [random_scene(rng, objects=3) for _ in range(80)]
    wrong = [wrong_scenes(scene, np.random.default_rng(i), 3) for i, scene in enumerate(scenes)]
    again = [wrong_scenes(scene, np.random.default_rng(i), 3) for i, scene in enumerate(scenes)]
    assert wrong == again
    assert {len(each) for each in wrong} == {3}
    fewer = sum(len(scene.objects) == 2 for each in wrong for scene in each)
    assert 0.04 < fewer / 240 < 0.2
    assert all(apart(scene) for each in wrong for scene in each)
    (one,) = [random_scene(rng, objects=1)]
    altered = wrong_scenes(one, rng, 10)
    assert 2 <= len(altered) <= 3  # another colour, another shape, another size where it fits


# Captions


def test_captions_say_what_the_scene_is():
    rng = np.random.default_rng(13)
    words_seen: Counter[str] = Counter()
    sizes = []
    for _ in range(800):
        scene = random_scene(rng)
        words = caption(scene, rng)
        told, true = parse_caption(words).canonical(), specification(scene).canonical()
        assert told.relations == true.relations, words
        for said, meant in zip(told.objects, true.objects, strict=True):
            assert said in (meant, dataclasses.replace(meant, size=None)), words
            sizes.append(said.size is not None)
        forms = ("there is", "a picture of", " is ", ", and ", *itertools.chain(*SYNONYMS.values()))
        words_seen.update(form for form in forms if form in words)
        assert not re.search(r"\ba [aeiou]|\ban [^aeiou]", words), words
    assert min(words_seen[form] for form in forms) > 10, words_seen
    assert 0.5 < np.mean(sizes) < 0.7


RED, BLUE, GREEN = (
    Description(*p) for p in (("red", "star"), ("blue", "circle"), ("green", "box"))
)
GREEN = dataclasses.replace(GREEN, shape="square", size="large")


@pytest.mark.parametrize(
    ("words", "objects", "relations"),
    [
        ("a red star", (RED,), ()),
        ("There is a  huge green box.", (GREEN,), ()),
        ("a red star left of a blue disc", (RED, BLUE), ((0, "left of", 1),)),
        ("a picture of a red star over a blue disc", (RED, BLUE), ((0, "above", 1),)),
        ("a red star is beneath a blue circle", (RED, BLUE), ((0, "below", 1),)),
        ("to the left of a blue circle is a red star", (BLUE, RED), ((1, "left of", 0),)),
        (
            "a red star right of a blue disc, and under the red star is a big green square",
            (RED, BLUE, GREEN),
            ((0, "right of", 1), (2, "below", 0)),
        ),
        (
            "a red star right of a blue disc; the blue circle is above a large green square",
            (RED, BLUE, GREEN),
            ((0, "right of", 1), (1, "above", 2)),
        ),
        ("a red star and a blue circle", (RED, BLUE), ()),
    ],
)
def test_captions_are_parsed(words, objects, relations):
    expected = Specification(objects, tuple(Relation(*r) for r in relations))
    assert parse_caption(words) == expected


@pytest.mark.parametrize(
    "words",
    [
        "",
        "a cat",
        "a red",
        "a mauve circle",
        "a red circle near a blue star",
        "a red circle left of",
        "the red circle",
        "a red circle left of the blue star",
        "a red circle above a small red disc",
        "a red circle above the red circle",
        "a red star and a blue star and a green star and a black star",
    ],
)
def test_captions_outside_the_grammar_are_user_errors(words: str):
    with pytest.raises(UserError) as error:
        parse_caption(words)
    assert len(str(error.value).splitlines()) == 1
    assert repr(words) in str(error.value)


# Examples and the command


def test_examples_are_the_same_at_every_call_and_differ_from_each_other():
    first, again = example("train", 0, 7), example("train", 0, 7)
    assert first[1] == again[1]
    assert first[0].tobytes() == again[0].tobytes()
    others = [example("train", 0, 8), example("train", 1, 7), example("test", 0, 7)]
    assert len({image.tobytes() for image, _ in [first, *others]}) == 4
    assert example("train", 0, 0)[1] == GOLDEN_CAPTION


def run_command(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    monkeypatch.setattr(sys, "argv", ["shapes", *arguments])
    monkeypatch.delitem(sys.modules, "corpora.shapes.__main__", raising=False)  # runpy warns
    with pytest.raises(SystemExit) as end:
        runpy.run_module("corpora.shapes.__main__", run_name="__main__")
    assert isinstance(end.value.code, int)
    return end.value.code


def test_command_writes_a_folder_of_captioned_images(tmp_path, monkeypatch):
    out = tmp_path / "new" / "shapes"
    options = ("--count", "7", "--split", "test", "--seed", "2", "--size", "48")
    assert run_command(monkeypatch, "--out", str(out), *options) == 0
    with (out / "metadata.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [list(row) for row in rows] == [["file_name", "caption"]] * 7
    for index, row in enumerate(rows):
        image, words = example("test", 2, index, 48)
        assert row["caption"] == words
        with Image.open(out / row["file_name"]) as written:
            assert written.tobytes() == image.tobytes()
    with Image.open(out / "preview.png") as preview:
        assert preview.width > 6 * 48
    assert len(list(out.iterdir())) == 9


def test_command_errors_are_one_line(tmp_path, monkeypatch, capsys):
    (tmp_path / "file").write_text("")
    for arguments, fault in [
        (("--out", str(tmp_path / "a"), "--count", "0"), "--count"),
        (("--out", str(tmp_path / "a"), "--count", "1", "--size", "4"), "pixels"),
        (("--out", str(tmp_path / "file" / "below"), "--count", "1"), "cannot write"),
        (("--out", str(tmp_path), "--count", "1"), "not empty"),
    ]:
        assert run_command(monkeypatch, *arguments) == 2
        message = capsys.readouterr().err
        assert fault in message
        assert message.startswith("error: ")
        assert message.count("\n") == 1


def test_scene_objects_are_drawn_where_they_are():
    image = render(Scene((SceneObject("green", "square", "large", x=0.25, y=0.75, width=0.25),)))
    assert image.getpixel((16, 48)) == PALETTE["green"]
    assert image.getpixel((48, 16)) == (255, 255, 255)
    ys, xs = np.nonzero(np.asarray(image)[..., 0] < 128)
    assert (xs.min(), xs.max(), ys.min(), ys.max()) == (8, 23, 40, 55)
