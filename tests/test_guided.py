"""Drawing guided by a dual encoder: prompts, cutouts, the objective, and the loop."""

import json
import math
import shlex
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from rankers import untrained
from torch.nn import functional as F

import guide as guide_script
from dalle.checkpoint import load_text_to_image
from dalle.text_to_image import TextToImage
from dalle_base.common.errors import UserError
from dalle_guided.config import CutoutsConfig, GuidanceConfig
from dalle_guided.cutouts import cut_out, placements
from dalle_guided.drawing import Drawing, Measured, draw, draw_guided, guide
from dalle_guided.objective import Target, clamp
from dalle_guided.prompts import Prompt, parse_prompts
from dalle_guided.record import some
from dalle_guided.request import guide_command, parse_guide_request
from dalle_guided.starts import codes_of, grid_of, random_codes
from dvae.config import DVAEConfig, NetworkConfig
from dvae.model import DiscreteVAE


def tokenizer() -> DiscreteVAE:
    torch.manual_seed(0)
    network = NetworkConfig(width=8, groups=2, norm="none", attention=False)
    config = DVAEConfig(image_size=16, grid=8, codebook_size=32, network=network)
    return DiscreteVAE(config).eval().requires_grad_(False)


def target(text: str = "a red heart:1|blue:-0.3", **options: Any) -> Target:
    return Target(untrained(**options), parse_prompts(text))


def test_prompts_have_weights_and_captions_may_have_colons() -> None:
    assert parse_prompts("a red heart:1|blue:-0.3") == (
        Prompt("a red heart"),
        Prompt("blue", weight=-0.3),
    )
    assert parse_prompts("flag: poland") == (Prompt("flag: poland"),)
    assert parse_prompts("flag: poland:2e-1| cat ") == (
        Prompt("flag: poland", weight=0.2),
        Prompt("cat"),
    )
    assert parse_prompts("12:30") == (Prompt("12", weight=30.0),)
    assert parse_prompts("a", ["b c.png:-2"])[1] == Prompt(image=Path("b c.png"), weight=-2.0)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "without text"),
        ("a|", "without text"),
        (" :2", "without text"),
        ("a:1|b:-1", "sum to nothing"),
        ("a:0.1|b:0.2|c:-0.3", "sum to nothing"),
        ("a:0", "other than 0"),
        ("a:inf", "other than 0"),
        ("a:nan|b", "other than 0"),
        ("a:-1e9", "other than 0"),
        ("a\0b", "UTF-8"),
        ("|".join("abcd" * 30), "too many"),
    ],
)
def test_prompts_that_say_nothing_are_named(text: str, says: str) -> None:
    with pytest.raises(UserError, match=says) as error:
        parse_prompts(text)
    assert "\n" not in str(error.value)


def test_a_view_of_all_of_an_image_is_the_image() -> None:
    config = CutoutsConfig(count=3, zoomed=1, smallest=1, degrees=0, shear=0, colour=0, noise=0)
    image = torch.rand(1, 3, 16, 16)
    views = cut_out(image, 16, config, torch.Generator())
    torch.testing.assert_close(views, image.expand(3, -1, -1, -1))


def test_a_larger_image_is_averaged_and_not_skipped() -> None:
    config = CutoutsConfig(count=2, zoomed=1, smallest=1, degrees=0, shear=0, colour=0, noise=0)
    image = torch.rand(1, 3, 48, 48)
    views = cut_out(image, 16, config, torch.Generator())
    torch.testing.assert_close(views[:1], F.avg_pool2d(image, 3))


def test_crops_lie_within_the_image_and_others_show_nearly_all_of_it() -> None:
    config = CutoutsConfig(count=2000, zoomed=0.6, smallest=0.4, degrees=0, shear=0)
    where = placements(config, torch.Generator().manual_seed(0))
    side, middle = where[:, 0, 0], where[:, :, 2]
    crops = (side < 0.9) | ((middle.abs() + side[:, None]) <= 1).all(dim=1)
    assert abs(crops.float().mean() - 0.6) < 0.12
    assert side.min() >= 0.4
    assert side.max() <= 1.1
    assert ((middle.abs() + side[:, None])[side < 0.9] <= 1 + 1e-6).all()
    assert middle[side < 0.5].abs().max() > 0.4
    for axis in (0, 1):
        assert abs(middle[:, axis].mean()) < 0.02


def test_a_crop_is_what_its_placement_says() -> None:
    """Against cutting by hand, where the corners lie on pixels' edges."""
    image = torch.rand(1, 3, 16, 16)
    where = torch.tensor([[[0.5, 0.0, -0.25], [0.0, 0.5, 0.5]]])
    grid = F.affine_grid(where, [1, 3, 8, 8], align_corners=False)
    view = F.grid_sample(image, grid, align_corners=False)
    torch.testing.assert_close(view, image[:, :, 8:16, 2:10])


def test_views_are_the_seeds_and_differ_from_each_other() -> None:
    image = torch.rand(1, 3, 16, 16)
    config = CutoutsConfig(count=6)
    first, again, other = (
        cut_out(image, 12, config, torch.Generator().manual_seed(seed)) for seed in (1, 1, 2)
    )
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    distances = torch.cdist(first.flatten(1), first.flatten(1))
    assert (distances + torch.eye(6)).min() > 0.1
    assert first.shape == (6, 3, 12, 12)


def test_the_distance_is_that_along_the_sphere() -> None:
    goal = target()
    views = torch.rand(5, 3, goal.size, goal.size)
    features = goal.encoder.model.encode_image(views)
    prompts = goal.encoder.text_features(["a red heart", "blue"])
    expected = 0.0
    for view in features:
        for prompt, weight in zip(prompts, (1.0, -0.3), strict=True):
            angle = math.acos(float(view @ prompt))
            expected += weight * 2 * (angle / 2) ** 2 / 5
    assert float(goal.distance(views)) == pytest.approx(expected, rel=1e-4)


def test_the_score_is_a_weighted_mean_of_cosines() -> None:
    goal = target()
    image = torch.rand(1, 3, goal.size, goal.size)
    cosines = goal.encoder.model.encode_image(image)[0] @ goal.features.T
    expected = (cosines[0] - 0.3 * cosines[1]) / 1.3
    assert goal.score(image) == pytest.approx(expected.item(), abs=1e-6)
    assert -1 <= goal.score(torch.rand(1, 3, 40, 40)) <= 1


def test_an_image_prompt_is_nearest_to_its_own_image(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    goal = Target(untrained(), [Prompt(image=tmp_path / "a.png")])
    own = torch.from_numpy(pixels).permute(2, 0, 1)[None] / 255
    assert goal.score(own) == pytest.approx(1, abs=1e-5)
    with pytest.raises(UserError, match="not a readable image"):
        Target(untrained(), [Prompt(image=tmp_path / "none.png")])


def test_a_clamp_lets_back_in_and_not_further_out() -> None:
    pixels = torch.tensor([-0.5, -0.5, 0.5, 1.5, 1.5], requires_grad=True)
    clamped = clamp(pixels)
    assert clamped.tolist() == [0, 0, 0.5, 1, 1]
    clamped.backward(torch.tensor([1.0, -1.0, 2.0, 1.0, -1.0]))
    assert pixels.grad is not None
    assert pixels.grad.tolist() == [0, -1, 2, 1, 0]


def test_guiding_raises_the_score_and_leaves_the_weights_alone() -> None:
    model, goal = tokenizer(), target("a red heart")
    before = {name: value.clone() for name, value in model.state_dict().items()}
    config = GuidanceConfig(steps=40, step_size=0.3, cutouts=CutoutsConfig(count=8))
    way = list(guide(model, goal, random_codes(model, (8, 8), 0), config))
    assert [measured.step for measured in way] == [0, 10, 20, 30, 40]
    assert way[-1].score > way[0].score + 0.05
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name])
    shown = np.asarray(way[-1].image, dtype=float) / 255
    decoded = model.decode(way[-1].codes[None])[0].permute(1, 2, 0).numpy()
    assert np.abs(shown - decoded).max() < 0.01


def test_a_negative_weight_repels() -> None:
    model = tokenizer()
    config = GuidanceConfig(steps=40, step_size=0.3, cutouts=CutoutsConfig(count=8))
    away = target("a red heart:-1")
    plain = target("a red heart")
    way = guide(model, away, random_codes(model, (8, 8), 0), config)
    scores = [plain.score(model.decode(step.codes[None])) for step in way]
    assert scores[-1] < scores[0] - 0.05


def test_the_pull_keeps_an_image_near_its_start() -> None:
    model, goal = tokenizer(), target("a red heart")
    start = random_codes(model, (8, 8), 3)
    moved = []
    for weight in (0.0, 100.0):
        config = GuidanceConfig(
            steps=30, step_size=0.3, image_weight=weight, cutouts=CutoutsConfig(count=8)
        )
        *_, last = guide(model, goal, start, config)
        moved.append((last.codes != start[0]).float().mean().item())
    assert moved[1] < moved[0]


def test_the_seed_fixes_everything() -> None:
    config = GuidanceConfig(steps=6, step_size=0.5, cutouts=CutoutsConfig(count=4))
    first, again, other = (
        list(guide(tokenizer(), target(), random_codes(tokenizer(), (8, 8), 5), config, seed))
        for seed in (1, 1, 2)
    )
    assert first[-1].image.tobytes() == again[-1].image.tobytes()
    assert first[-1].image.tobytes() != other[-1].image.tobytes()


def test_a_grid_larger_than_the_tokenizers_own() -> None:
    model, goal = tokenizer(), target()
    assert grid_of(model, 40) == (20, 20)
    with pytest.raises(UserError, match="--size is 41: a code is 2 pixels"):
        grid_of(model, 41)
    config = GuidanceConfig(steps=1, cutouts=CutoutsConfig(count=2))
    *_, last = guide(model, goal, random_codes(model, (20, 20), 0), config)
    assert last.image.size == (40, 40)
    assert codes_of(model, last.image, (20, 20)).shape == (1, 20, 20)


def measured(step: int, second: float | None) -> Measured:
    return Measured(step, Image.new("RGB", (4, 4)), torch.zeros(2, 2), step / 100, second)


def test_a_drawing_ends_where_the_second_encoder_finds_nothing_better() -> None:
    scores = [0.1, 0.3, 0.2, 0.2, 0.1, 0.9]
    way = iter([measured(i, score) for i, score in enumerate(scores)])
    drawing = draw(way, patience=3)
    assert len(drawing.way) == 5
    assert drawing.best.step == 1
    whole = draw(iter([measured(i, score) for i, score in enumerate(scores)]), patience=4)
    assert whole.best.step == 5


def test_without_a_second_encoder_the_last_image_is_kept() -> None:
    drawing = draw(iter([measured(i, None) for i in range(9)]), patience=1)
    assert len(drawing.way) == 9
    assert drawing.best.step == 8


def test_of_equal_scores_the_later_image_is_kept() -> None:
    assert Drawing([measured(0, 0.5), measured(1, 0.5)]).best.step == 1


def test_a_gradient_that_is_not_finite_is_named() -> None:
    model, goal = tokenizer(), target()
    goal.features.fill_(float("nan"))
    config = GuidanceConfig(steps=3, cutouts=CutoutsConfig(count=2))
    with pytest.raises(UserError, match="step 0: the gradient is not finite"):
        list(guide(model, goal, random_codes(model, (8, 8), 0), config))


def test_features_that_are_not_finite_are_named_before_anything_is_drawn() -> None:
    broken = untrained()
    broken.model.text_projection.data.fill_(float("inf"))
    with pytest.raises(UserError, match="not finite"):
        Target(broken, parse_prompts("a red heart"))


def test_the_api_is_one_call() -> None:
    model = TextToImage(None, None, tokenizer(), reranker=untrained())  # type: ignore[arg-type]
    config = GuidanceConfig(steps=2, cutouts=CutoutsConfig(count=2))
    drawing = draw_guided(model, "a red heart", config=config, second=untrained(seed=1))
    assert drawing.image.size == (16, 16)
    assert drawing.best.second is not None
    model.reranker = None
    with pytest.raises(UserError, match="no reranker"):
        draw_guided(model, "a red heart")


def test_a_sheet_has_the_first_frame_and_the_last() -> None:
    frames = some([measured(i, None) for i in range(100)])
    assert len(frames) == 32
    assert (frames[0].step, frames[-1].step) == (0, 99)
    assert [frame.step for frame in some([measured(0, None)])] == [0]


def test_the_command_in_the_record_asks_for_the_same() -> None:
    words = ["--text", "a:1|b:-0.5", "--prompt-image", "x.png:2", "y z.png", "--seed", "7"]
    words += ["--image", "s.png", "--image-weight", "0.5", "--cutouts", "9", "--size", "128"]
    words += ["--encoder", "e", "--second", "f", "--steps", "3", "--noise", "0.2"]
    request = parse_guide_request("", words)
    again = parse_guide_request("", guide_command(request, 7)[2:])
    assert again.prompts == request.prompts
    for name in ("model", "encoder", "second", "start", "image", "size", "seed", "config"):
        assert getattr(again, name) == getattr(request, name), name


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--text", "a", "--start", "image"], "go together"),
        (["--text", "a", "--start", "noise", "--image", "x.png"], "go together"),
        (["--text", "a:-1|b:3", "--start", "sampled"], "weight above 0"),
        (["--text", "a", "--steps", "0"], "--steps is 0"),
        (["--text", "a", "--step-size", "nan"], "--step-size is nan"),
        (["--text", "a", "--cutouts", "-1"], "--cutouts is -1"),
        (["--text", "a", "--smallest", "0"], "--smallest is 0"),
        (["--text", "a", "--drawings", "0"], "--drawings is 0"),
    ],
)
def test_what_makes_no_sense_is_named(words: list[str], says: str) -> None:
    with pytest.raises(UserError, match=says) as error:
        parse_guide_request("", words)
    assert "\n" not in str(error.value)


def test_the_script_writes_an_image_its_way_and_how_to_repeat_it(
    tmp_path: Path, run_script: Callable[..., tuple[int, str, str]]
) -> None:
    words = ["--text", "a red heart:1|blue:-0.3", "--model", "models/shapes", "--steps", "2"]
    words += ["--cutouts", "2", "--measure-every", "1", "--drawings", "2", "--step-size", "9"]
    status, out, error = run_script(guide_script.main, *words, "--out", tmp_path / "a")
    assert status == 0, error
    folder = tmp_path / "a/a-red-heart-1-blue-0-3"
    record = json.loads((folder / "guided.json").read_text("utf-8"))
    assert [entry["seed"] for entry in record["drawings"]] == [0, 1]
    ends = (".png", "-way.png", "-way.gif")
    names = {f"{seed}{end}" for seed in (0, 1) for end in ends} | {"guided.json", "run.json"}
    assert {path.name for path in folder.iterdir()} == names
    assert str(folder / "guided.json") in out
    with Image.open(folder / "0-way.gif") as gif:
        assert gif.n_frames == 3  # type: ignore[attr-defined]
    words = shlex.split(record["drawings"][1]["command"])[2:]
    status, _, error = run_script(guide_script.main, *words, "--out", tmp_path / "b")
    assert status == 0, error
    (other,) = (tmp_path / "b").iterdir()
    assert (other / "1.png").read_bytes() == (folder / "1.png").read_bytes()


def test_ctrl_c_keeps_what_was_drawn(
    tmp_path: Path,
    run_script: Callable[..., tuple[int, str, str]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def interrupted(*_: Any) -> Iterator[Measured]:
        yield measured(0, None)
        yield measured(3, None)
        raise KeyboardInterrupt

    monkeypatch.setattr("dalle_guided.drawing.guide", interrupted)
    words = ["--text", "a red heart", "--model", "models/shapes", "--drawings", "3"]
    status, _, error = run_script(guide_script.main, *words, "--out", tmp_path)
    assert status == 130, error
    record = json.loads((tmp_path / "a-red-heart/guided.json").read_text("utf-8"))
    assert record["interrupted"] is True
    assert [entry["step"] for entry in record["drawings"]] == [3]


def test_the_script_starts_from_the_models_best_candidate(
    tmp_path: Path, run_script: Callable[..., tuple[int, str, str]]
) -> None:
    words = ["--text", "a red circle", "--model", "models/shapes", "--start", "sampled"]
    words += ["--sampled", "2", "--steps", "1", "--cutouts", "1", "--out", tmp_path]
    status, _, error = run_script(guide_script.main, *words)
    assert status == 0, error
    record = json.loads((tmp_path / "a-red-circle/guided.json").read_text("utf-8"))
    model = load_text_to_image("models/shapes")
    samples = model.generate("a red circle", candidates=2, seed=0)
    assert record["drawings"][0]["way"][0]["score"] == pytest.approx(
        Target(model.reranker, parse_prompts("a red circle")).score(  # type: ignore[arg-type]
            model.tokenizer.decode(samples.codes[int(model.rank(samples).argmax())].view(1, 8, 8))
        ),
        abs=1e-4,
    )
