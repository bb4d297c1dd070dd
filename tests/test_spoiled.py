"""Right and wrong images of a caption: sampled and checked, read, and learned from."""

import io
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from rankers import log_lines
from torch import Tensor, distributed, multiprocessing
from torch.nn import functional as F
from torch.nn.parallel import DistributedDataParallel

import train_clip
from dalle_base.common.errors import UserError
from dalle_base.common.images import open_image
from dalle_base.data.batches import Shuffled
from dalle_base.data.config import TextConfig
from dalle_base.data.shapes import check, described_scene
from dalle_base.data.text_training import train_text
from dalle_base.training.launch import hang_up
from dual_encoder.checkpoint import load_dual_encoder
from dual_encoder.config import DualEncoderConfig, LossConfig, SpoiledConfig, TowerConfig
from dual_encoder.examples import Batch, PairMaker
from dual_encoder.loss import contrastive_loss, preference_loss
from dual_encoder.metrics import spoiled_accuracy
from dual_encoder.model import DualEncoder
from dual_encoder.spoiled import (
    Group,
    SpoiledBatch,
    SpoiledMaker,
    fresh_groups,
    read_groups,
    split_groups,
)
from experiments import spoiled

ROOT = Path(__file__).parents[1]
MEMBERS = torch.tensor([[0, 1, 2, 3], [4, 5, -1, -1], [6, 7, 8, -1]])


def png(colour: Any, size: int = 16) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (size, size), colour).save(file, "PNG")
    return file.getvalue()


def write_rows(path: Path, rows: Sequence[tuple[bytes | None, str, Any]]) -> Path:
    columns = [list(column) for column in zip(*rows, strict=True)]
    pq.write_table(pa.table(dict(zip(("image", "caption", "exact"), columns, strict=True))), path)
    return path


@pytest.fixture
def parquet(tmp_path: Path) -> Path:
    """Eight captions whose right image has the colour that they name."""
    rows = []
    for number in range(8):
        colour, other = ("red", "blue") if number % 2 else ("blue", "red")
        caption = f"a {colour} picture, number {number}"
        rows += [(png(colour), caption, True), (png(other), caption, False)]
        rows += [(png("green"), caption, False)]
    return write_rows(tmp_path / "spoiled.parquet", rows)


def features() -> list[Tensor]:
    torch.manual_seed(0)
    both = [F.normalize(torch.randn(n, 5, dtype=torch.float64), dim=-1) for n in (9, 3)]
    return [x.requires_grad_() for x in [*both, torch.tensor(9.0, dtype=torch.float64)]]


def test_the_loss_is_the_cross_entropy_of_the_right_image_in_value_and_gradient() -> None:
    inputs, reference = features(), features()
    loss = preference_loss(*inputs, members=MEMBERS)
    loss.backward()
    images, text, scale = reference
    expected = torch.zeros((), dtype=torch.float64)
    for caption, row in zip(text, MEMBERS.tolist(), strict=True):
        odds = [(scale * (images[i] * caption).sum()).exp() for i in row if i >= 0]
        expected = expected - (odds[0] / sum(odds)).log() / len(MEMBERS)
    expected.backward()
    torch.testing.assert_close(loss, expected)
    for ours, theirs in zip(inputs, reference, strict=True):
        torch.testing.assert_close(ours.grad, theirs.grad)


def test_a_caption_without_a_wrong_image_costs_nothing() -> None:
    images, text, scale = features()
    loss = preference_loss(images, text, scale, torch.tensor([[0, -1], [3, -1], [5, -1]]))
    loss.backward()
    assert loss.item() == 0
    assert images.grad is not None
    assert not images.grad.any()


def test_only_captions_with_right_and_wrong_images_are_read(tmp_path: Path) -> None:
    rows = [
        (png("red"), "a red heart", True),
        (png("blue"), "only wrong", False),
        (png("green"), "A red  heart", False),
        (png("white"), "only right", True),
        (png("black"), "a red heart", False),
    ]
    [group] = read_groups(str(write_rows(tmp_path / "x.parquet", rows)))
    assert group == Group("a red heart", [png("red")], [png("green"), png("black")])


def test_groups_to_measure_on_are_no_groups_to_train_on(parquet: Path) -> None:
    groups = read_groups(str(parquet))
    assert len(groups) == 8
    kept, held_out = split_groups(groups, 0.25)
    assert len(held_out) == 2
    assert sorted(kept + held_out) == sorted(groups)
    assert split_groups(groups[::-1], 0.25) == (kept, held_out)
    assert [len(part) for part in split_groups(groups, 0.01)] == [7, 1]
    assert [len(part) for part in split_groups(groups, 0.99)] == [1, 7]
    with pytest.raises(UserError, match="a single caption"):
        split_groups(groups[:1], 0.5)


def small() -> DualEncoderConfig:
    vision, text = TowerConfig(8, 2, 2), TowerConfig(8, 1, 2)
    return DualEncoderConfig(6, 8, 2, vision, vocab_size=300, text_length=8, text=text)


def maker(groups: list[Group], **options: Any) -> SpoiledMaker:
    tokenizer = train_text(["a red picture", "a blue picture"], 260)
    pairs = PairMaker(tokenizer, small(), TextConfig(bpe_dropout=0.5), [])
    return SpoiledMaker(groups, pairs, SpoiledConfig(**options))


def test_a_batch_has_one_right_image_and_wrong_ones_of_each_caption() -> None:
    groups = [
        Group("a red picture", [png((200, 0, 0)), png((250, 0, 0))], [png((0, 9, 0))] * 5),
        Group("a blue picture", [png((0, 0, 200))], [png((0, 0, 9))]),
    ]
    make = maker(groups, wrong=3)
    batch = make([(1, 5), (0, 6)])
    assert batch.members.tolist() == [[0, 1, -1, -1], [2, 3, 4, 5]]
    values = batch.images.amax(dim=(2, 3)).mul(255).round().int().tolist()
    assert values[:2] == [[0, 0, 200], [0, 0, 9]]
    assert values[3:] == [[0, 9, 0]] * 3
    again = make([(1, 5), (0, 6)])
    assert all(torch.equal(one, other) for one, other in zip(batch, again, strict=True))
    rights = {make([(0, seed)]).images[0, 0, 0, 0].item() for seed in range(20)}
    assert len(rights) == 2


def test_groups_come_in_an_order_of_the_seed_and_the_update_alone() -> None:
    groups = [Group(f"{i}", [png((i, 0, 0))], [png((0, 1, 0))]) for i in range(7)]
    make = maker(groups, wrong=1)
    make.config.groups = 3

    def after(start: int, rank: int = 0, world: int = 1) -> SpoiledBatch:
        return next(fresh_groups(Shuffled(7, 99, 1, start, rank, world), make))

    run = fresh_groups(Shuffled(7, 99, 1), make)
    third = [next(run) for _ in range(3)][-1]
    assert torch.equal(third.images, after(2).images)
    assert len(third.members) == 3
    two = [after(0, rank, 2).images for rank in range(2)]
    assert torch.equal(torch.cat(two), torch.cat([after(0).images, after(1).images]))


def encoder() -> DualEncoder:
    torch.manual_seed(0)
    return DualEncoder(small()).double()


def batches(n: int) -> tuple[Batch, SpoiledBatch]:
    """Pairs and groups as a run has them: all wrong captions but one are wrong."""
    generator = torch.Generator().manual_seed(1)
    images = torch.rand(n + 9, 3, 8, 8, generator=generator, dtype=torch.float64)
    text = torch.randint(0, 298, (2 * n + 3, 8), generator=generator)
    text[:, -1] = 299
    text[n] = text[0]
    pairs = Batch(images[:n], text[:n], torch.arange(n), text[n : 2 * n])
    return pairs, SpoiledBatch(images[n:], text[2 * n :], MEMBERS)


def gradients(model: torch.nn.Module) -> dict[str, Tensor]:
    return {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("chunk", [0, 1, 4, 5])
@pytest.mark.parametrize("rows", [0, 2])
def test_chunks_change_neither_loss_nor_gradients(chunk: int, rows: int) -> None:
    """The reference encodes pairs and groups apart."""
    (images, tokens, concepts, wrong), groups = batches(5)
    config = train_clip.TrainDualEncoder(loss=LossConfig(rows), chunk_images=chunk)
    config.loss.spoiled.weight = 0.7
    model, reference = encoder(), encoder()
    pairs = Batch(images, tokens, concepts, wrong)
    loss = train_clip.batch_loss(config, model, pairs, torch.device("cpu"), groups)
    loss.backward()
    seen, read, nearly = map(
        lambda f, x: f(x),
        (reference.encode_image, reference.encode_text, reference.encode_text),
        (images, tokens, wrong),
    )
    negatives = nearly, torch.tensor([False, True, True, True, True])
    scale = reference.scale()
    expected = contrastive_loss(seen, read, scale, concepts, LossConfig(), wrong=negatives)
    samples, asked = reference.encode_image(groups.images), reference.encode_text(groups.tokens)
    expected = expected + 0.7 * preference_loss(samples, asked, scale, groups.members)
    expected.backward()
    torch.testing.assert_close(loss, expected)
    torch.testing.assert_close(gradients(model), gradients(reference))


def in_process(rank: int, folder: Path) -> None:
    torch.set_num_threads(1)
    distributed.init_process_group(
        "gloo", init_method=f"file://{folder / 'meet'}", rank=rank, world_size=2
    )
    pairs, groups = batches(4)
    half = Batch(*(tensor.chunk(2)[rank] for tensor in pairs))
    rows = slice(2 * rank, 2 * rank + 2)
    own = SpoiledBatch(groups.images, four(groups.tokens)[rows], four(groups.members)[rows])
    model = DistributedDataParallel(encoder())
    config = train_clip.TrainDualEncoder(chunk_images=1)
    loss = train_clip.batch_loss(config, model, half, torch.device("cpu"), own)
    loss.backward()
    torch.save((loss.detach(), gradients(model.module)), folder / f"{rank}.pt")
    hang_up()


def four(rows: Tensor) -> Tensor:
    return torch.cat([rows, rows[:1]])


@pytest.mark.slow
def test_two_processes_equal_one_with_the_whole_batch(tmp_path: Path) -> None:
    multiprocessing.spawn(in_process, (tmp_path,), nprocs=2)  # type: ignore[attr-defined]
    pairs, groups = batches(4)
    whole = SpoiledBatch(groups.images, four(groups.tokens), four(groups.members))
    model, config = encoder(), train_clip.TrainDualEncoder()
    loss = train_clip.batch_loss(config, model, pairs, torch.device("cpu"), whole)
    loss.backward()
    halves = [torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in range(2)]
    torch.testing.assert_close((halves[0][0] + halves[1][0]) / 2, loss.detach())
    for _, averaged in halves:
        torch.testing.assert_close(averaged, gradients(model))


def test_without_groups_the_loss_is_the_same_to_the_bit() -> None:
    pairs, _ = batches(5)
    images, tokens, concepts, wrong = pairs
    model, reference = encoder().float(), encoder().float()
    pairs = pairs._replace(images=images.float())
    config = train_clip.TrainDualEncoder()
    loss = train_clip.batch_loss(config, model, pairs, torch.device("cpu"))
    loss.backward()
    seen, read, scale = reference(images.float(), torch.cat([tokens, wrong]))
    negatives = read[5:], (tokens != wrong).any(dim=1)
    expected = contrastive_loss(seen, read[:5], scale, concepts, LossConfig(), wrong=negatives)
    expected.backward()
    assert torch.equal(loss, expected)
    ours, theirs = gradients(model), gradients(reference)
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


def test_a_run_learns_from_groups_and_measures_others(
    train_ranker: Callable[..., Any], tmp_path: Path, parquet: Path
) -> None:
    options = [f"loss.spoiled.path={parquet}", "loss.spoiled.groups=3", "run.evaluate_every=2"]
    status, printed, error = train_ranker("clip", "run.updates=4", "chunk_images=2", *options)
    assert status == 0, error
    assert "7 captions with right and wrong images" in printed
    assert "whose right image comes first" in printed
    assert train_ranker("parts", "run.updates=2", "chunk_images=2", *options)[0] == 0
    assert train_ranker("parts", "run.updates=4", "chunk_images=2", *options)[0] == 0
    whole, parts = log_lines(tmp_path / "clip"), log_lines(tmp_path / "parts")
    assert whole == parts
    assert train_ranker("plain", "run.updates=4", "run.evaluate_every=2")[0] == 0
    plain = log_lines(tmp_path / "plain")
    assert whole[0]["loss"] > plain[0]["loss"]
    measured = [line["spoiled_accuracy"] for line in whole if "held_out_loss" in line]
    assert len(measured) == 2
    assert not any("spoiled_accuracy" in line for line in plain)
    ranker = load_dual_encoder(tmp_path / "clip/model")
    held_out = split_groups(read_groups(str(parquet)), 0.1)[1]
    assert spoiled_accuracy(ranker, held_out) == max(measured)


def test_accuracy_is_the_share_of_captions_whose_right_image_is_chosen(
    train_ranker: Callable[..., Any], tmp_path: Path
) -> None:
    """A ranker that likes some images of a caption better: with these right, or those."""
    assert train_ranker("clip", "run.updates=1")[0] == 0
    ranker = load_dual_encoder(tmp_path / "clip/model")
    images = [png(colour) for colour in ("red", "green", "blue")]
    text = ranker.text_features(["a"])
    scores = (ranker.image_features([open_image(image) for image in images]) @ text.T)[:, 0]
    worst, middle, best = (images[i] for i in scores.argsort().tolist())
    cases = {
        (True,): Group("a", [best], [middle, worst]),
        (True, True): Group("a", [worst, best], [middle]),
        (False,): Group("a", [middle, worst], [best]),
        (False, False): Group("a", [best], [best, worst]),  # a tie is no win
    }
    for (right, *_), group in cases.items():
        assert spoiled_accuracy(ranker, [group]) == right
    assert spoiled_accuracy(ranker, [*cases.values()]) == 0.5


def broken(path: Path, kind: str) -> Path:
    """A file that is wrong in one way."""
    good = [(png("red"), "a red heart", True), (png("blue"), "a red heart", False)]
    if kind == "columns":
        pq.write_table(pa.table({"image": [b"x"], "caption": ["a"]}), path)
    elif kind == "text":
        path.write_text("no parquet file")
    elif kind == "folder":
        path.mkdir()
    elif kind == "all right":
        write_rows(path, [good[0]] * 3)
    elif kind == "kind":
        write_rows(path, [(png("red"), "a red heart", "yes")])
    elif kind == "image":
        write_rows(path, [*good, (b"no image", "a", True)])
    elif kind == "empty":
        write_rows(path, [*good, (None, "a", True)])
    elif kind == "single":
        write_rows(path, good)
    return path


@pytest.mark.parametrize(
    ("kind", "named"),
    [
        ("missing", "there is no file"),
        ("folder", "there is no file"),
        ("columns", "no column exact; it has image, caption"),
        ("text", "is no parquet file"),
        ("all right", "(3 are right, 0 wrong)"),
        ("kind", "must be true or false"),
        ("image", "row 2"),
        ("empty", "row 2 has an empty cell"),
        ("single", "a single caption"),
    ],
)
def test_a_bad_file_is_one_line(
    train_ranker: Callable[..., Any], tmp_path: Path, kind: str, named: str
) -> None:
    path = broken(tmp_path / "x.parquet", kind)
    status, _, error = train_ranker("clip", "run.updates=1", f"loss.spoiled.path={path}")
    assert status == 2
    assert error.startswith("error: loss.spoiled.path")
    assert named in error
    assert error.count("\n") == 1


@pytest.mark.parametrize("option", ["weight=0", "groups=0", "wrong=0", "held_out_share=1"])
def test_impossible_options_are_refused(train_ranker: Callable[..., Any], option: str) -> None:
    status, _, error = train_ranker("clip", "run.updates=1", f"loss.spoiled.{option}")
    assert status == 2
    assert f"loss.spoiled.{option.split('=')[0]}" in error


def test_samples_are_written_with_what_the_checker_says(
    tmp_path: Path, run_script: Callable[..., tuple[int, str, str]]
) -> None:
    out = tmp_path / "spoiled"
    arguments = ["--model", ROOT / "models/shapes", "--out", out, "--device", "cpu"]
    arguments += ["--captions", 6, "--candidates", 2, "--first", 3]
    status, printed, error = run_script(spoiled.main, *arguments)
    assert status == 0, error
    rows = pq.read_table(out / spoiled.FILE).to_pylist()
    assert [row["scene"] for row in rows if row["origin"] == "sample"] == sorted([*range(3, 9)] * 2)
    for row in rows:
        assert row["caption"] == described_scene("train", 0, row["scene"])[1]
        result = check(open_image(row["image"]["bytes"]), row["caption"])
        assert (row["exact"], tuple(row["failed"])) == (result.exact, result.failed)
    right = {row["scene"] for row in rows if row["origin"] == "sample" and row["exact"]}
    rebuilt = [row["scene"] for row in rows if row["origin"] == "reconstruction"]
    assert set(rebuilt) == set(range(3, 9)) - right
    assert len({row["exact"] for row in rows}) == 2
    read = {group.caption for group in read_groups(str(out / spoiled.FILE))}
    assert read == {row["caption"] for row in rows if not row["exact"]}
    readme = (out / "README.md").read_text()
    exact = sum(row["exact"] for row in rows if row["origin"] == "sample")
    assert f"| sample | 12 | {exact} |" in readme
    assert readme.strip() in printed


def test_edited_scenes_follow_the_sampled_ones(
    tmp_path: Path, run_script: Callable[..., tuple[int, str, str]]
) -> None:
    arguments = ["--model", ROOT / "models/shapes", "--out", tmp_path / "out", "--device", "cpu"]
    arguments += ["--captions", 0, "--edited", 8, "--candidates", 3, "--first", 5]
    status, _, error = run_script(spoiled.main, *arguments)
    assert status == 0, error
    rows = pq.read_table(tmp_path / "out" / spoiled.FILE).to_pylist()
    assert [row["scene"] for row in rows if row["origin"] == "reconstruction"] == [*range(5, 13)]
    assert all(row["exact"] for row in rows if row["origin"] == "reconstruction")
    edited = [row for row in rows if row["origin"] == "edited"]
    assert {row["candidate"] for row in edited} == {0, 1, 2}
    assert sum(not row["exact"] for row in edited) > 0.7 * len(edited)
    for row in edited:
        result = check(open_image(row["image"]["bytes"]), row["caption"])
        assert tuple(row["failed"]) == result.failed


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["--captions", "0"], "--captions is 0 and --edited 0"),
        (["--edited", "-1"], "--edited -1"),
        (["--first", "-1"], "--first is -1"),
        (["--candidates", "0"], "candidates is 0"),
        (["--model", "nowhere"], "nowhere"),
    ],
)
def test_what_cannot_be_sampled_is_one_line(
    tmp_path: Path, run_script: Callable[..., Any], arguments: list[str], named: str
) -> None:
    status, _, error = run_script(spoiled.main, "--out", tmp_path / "out", *arguments)
    assert status == 2
    assert named in error
    assert error.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_what_is_there_is_not_written_over(tmp_path: Path, run_script: Callable[..., Any]) -> None:
    (tmp_path / "notes.txt").write_text("kept")
    status, _, error = run_script(spoiled.main, "--out", tmp_path)
    assert status == 2
    assert "exists already" in error
