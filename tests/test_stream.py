"""Streams: every record once a pass, each process its own, and exact places to go on from."""

import json
from collections import Counter
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from builders import TINY_DALLE, TINY_DVAE, encoded, shades, write_parquet, write_tar
from rankers import TINY as TINY_CLIP
from safetensors.torch import load_file

import train_clip
import train_dalle
import train_dvae
from dalle_base.common.checkpoint import read_training_state
from dalle_base.common.errors import UserError
from dalle_base.data.batches import ImageDataset, Shuffled, batches, shown_batches
from dalle_base.data.config import AugmentConfig
from dalle_base.data.sources import open_sources, read_data_config
from dalle_base.data.sources.base import Record, captioned
from dalle_base.data.sources.buffered import Place, Reader, StreamOrder
from dalle_base.data.sources.streaming import StreamSource
from dalle_base.data.text_training import learn_text

LENGTHS = (20, 7, 13, 22)
TOTAL = sum(LENGTHS)


@pytest.fixture(params=["parquet", "tars"])
def shards(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """Four files of different lengths, as tables or as tars."""
    folder, first = tmp_path / "shards", 0
    for number, length in enumerate(LENGTHS):
        rows = shades(length, first)
        if request.param == "parquet":
            write_parquet(folder / f"{number}.parquet", rows)
        else:
            members: dict[str, bytes | str] = {}
            for row in rows:
                name = row["caption"].replace(" ", "-")
                members |= {f"{name}.png": row["image"], f"{name}.txt": row["caption"]}
            write_tar(folder / f"{number}.tar", members)
        first += length
    return folder


def stream(path: Path, **options: Any) -> tuple[StreamSource, list[Record]]:
    """The training stream of a folder, with a buffer of 8, and the held-out records."""
    values = {"source": "stream", "path": str(path), "buffer": 8, "held_out_count": 6, **options}
    train, held_out = open_sources(read_data_config(values, "test"))
    assert isinstance(train, StreamSource)
    return train, [held_out.record(i) for i in range(len(held_out))]


def captions(source: StreamSource, count: int, **order: Any) -> list[list[str | None]]:
    """The captions of the first batches of three."""
    keys = source.batches(StreamOrder(3, seed=order.pop("seed", 1), **order))
    return [[key.record.caption for key in batch] for batch in islice(keys, count)]


def flat(batches: list[list[str | None]]) -> list[str]:
    return [caption or "" for batch in batches for caption in batch]


def test_a_pass_has_each_record_once_but_for_those_held_out(shards: Path) -> None:
    source, held_out = stream(shards)
    apart = {record.caption for record in held_out}
    assert len(apart) == 6 or len(apart) == 5  # a small shard gives a share only
    left = {f"number {i}" for i in range(TOTAL)} - apart
    seen = flat(captions(source, 3 * len(left) // 3))
    for turn in range(3):
        assert sorted(seen[turn * len(left) : (turn + 1) * len(left)]) == sorted(left)
    assert seen[: len(left)] != seen[len(left) : 2 * len(left)]
    assert seen != flat(captions(source, len(left), seed=2))
    first = [int(caption.split()[1]) for caption in seen[:8]]
    assert first != sorted(first)


@pytest.mark.parametrize("places", ["kept", "none", "torn", "of other data"])
def test_a_resumed_stream_goes_on_exactly(
    shards: Path, tmp_path: Path, places: str, capsys: pytest.CaptureFixture
) -> None:
    source, _ = stream(shards)
    whole = captions(source, 50)
    folder = tmp_path / "run"
    folder.mkdir()
    assert captions(source, 41, folder=folder) == whole[:41]
    (file,) = folder.iterdir()
    if places == "none":
        file.unlink()
    elif places == "torn":
        file.write_text(file.read_text()[:-9])
    elif places == "of other data":
        lines = file.read_text().splitlines()
        file.write_text("\n".join([json.dumps("x"), *lines[1:]]))
    for start in (40, 17):
        again, _ = stream(shards)  # as another process opens it
        assert captions(again, 50 - start, start=start, folder=folder) == whole[start:]
    firsts = [json.loads(line)[0] for line in file.read_text().splitlines()[1:]]
    assert firsts == sorted(set(firsts))


def test_a_kept_place_saves_reading(shards: Path, tmp_path: Path) -> None:
    source, _ = stream(shards)
    captions(source, 90, folder=tmp_path)
    wanted, read = source.wanted, []

    def counted(record: Record) -> bool:
        read.append(record.name)
        return wanted(record)

    source.wanted = counted  # type: ignore[method-assign]
    captions(source, 1, start=80, folder=tmp_path)
    assert len(read) < 4 * 8


@pytest.mark.parametrize("world", [2, 3, 4, 7])
def test_each_process_has_a_part_of_its_own(shards: Path, world: int) -> None:
    """Shards where there are enough, else rows: no record twice, and none left out."""
    source, _ = stream(shards)
    parts = []
    for rank in range(world):
        reader = Reader(source.shards, StreamOrder(1, 1, rank=rank, world=world), Place())
        parts.append([record.name for record in iter(reader.read, None)])
    together = Counter(name for part in parts for name in part)
    assert set(together.values()) == {1}
    assert len(together) == TOTAL


def test_seeds_are_those_of_the_global_batch(shards: Path) -> None:
    source, _ = stream(shards)
    for rank in (0, 1):
        order = Shuffled(99, 3, seed=5, start=4, rank=rank, world=2)
        ours = next(source.batches(order.as_of_stream()))
        assert [key.seed for key in ours] == [seed for _, seed in next(iter(order))]


def test_a_copy_of_a_held_out_image_is_not_trained_on(tmp_path: Path) -> None:
    rows = shades(30)
    write_parquet(tmp_path / "a.parquet", rows)
    write_parquet(tmp_path / "b.parquet", rows)
    source, held_out = stream(tmp_path)
    seen = set(flat(captions(source, 40)))
    assert held_out
    assert not seen & {record.caption for record in held_out}


def test_a_few_rows_are_shared_out(tmp_path: Path) -> None:
    write_parquet(tmp_path / "a.parquet", shades(5))
    source, held_out = stream(tmp_path, held_out_count=256)
    assert [record.caption for record in held_out] == ["number 0"]
    assert set(flat(captions(source, 8))) == {f"number {i}" for i in range(1, 5)}


def test_records_without_a_caption_are_passed_over(tmp_path: Path) -> None:
    rows = shades(9)
    for row in rows[::2]:
        row["caption"] = " "
    write_parquet(tmp_path / "a.parquet", rows)
    source, _ = stream(tmp_path, held_out_path=str(tmp_path))
    assert captioned(source) is source
    assert set(flat(captions(source, 12))) == {"number 1", "number 3", "number 5", "number 7"}
    assert learn_text(source, 300).encode(["number"], 4).shape == (1, 4)


def test_a_stream_with_nothing_to_train_on_is_one_line(tmp_path: Path) -> None:
    write_parquet(tmp_path / "a.parquet", [{"image": encoded(i), "text": "x"} for i in range(4)])
    source, _ = stream(tmp_path, held_out_path=str(tmp_path))
    captioned(source)
    said = "columns are image, text; set data.caption_column=text"
    with pytest.raises(UserError, match=f"no image with a caption to train on .*{said}"):
        captions(source, 1)
    with pytest.raises(UserError, match=said):
        learn_text(source, 300)


def test_what_a_stream_cannot_do_is_one_line(shards: Path) -> None:
    source, _ = stream(shards)
    with pytest.raises(UserError, match="has no length, which this needs"):
        len(source)
    with pytest.raises(UserError, match=r"data\.parts\.x is a stream, which cannot be mixed"):
        read_data_config({"source": "mixture", "parts": {"x": {"source": "stream"}}}, "test")
    for option in ("buffer", "held_out_count"):
        with pytest.raises(UserError, match=rf"data\.{option} is .*: write a whole number from 1"):
            stream(shards, **{option: 0})
    with pytest.raises(UserError, match=r"data\.path is empty"):
        read_data_config({"source": "stream"}, "test").open()


def test_workers_change_nothing_of_a_stream(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    """Nor do unreadable images: another of the batch stands in, with its own caption."""
    rows = shades(30)
    for number in (11, 12):
        rows[number]["image"] = b"no image"
    write_parquet(tmp_path / "a.parquet", rows)

    def read(workers: int) -> Iterator[tuple[bytes, str | None]]:
        images = ImageDataset(stream(tmp_path)[0], 8, AugmentConfig(flip="all"))
        for pixels, keys in islice(shown_batches(images, Shuffled(0, 4, seed=1), workers), 18):
            for shown, (index, _) in zip(pixels, keys, strict=True):
                yield shown.numpy().tobytes(), images.source.record(index).caption
        assert len(images.skipped) == 2

    own = list(read(0))
    said = capsys.readouterr().out.count("skipped an unreadable image")
    assert list(read(2)) == own
    assert said == capsys.readouterr().out.count("skipped an unreadable image") == 2
    assert not {"number 11", "number 12"} & {caption for _, caption in own}


def test_a_caption_goes_with_its_image(shards: Path) -> None:
    images = ImageDataset(captioned(stream(shards)[0]), 8, None)
    for examples in islice(batches(images, Shuffled(0, 3, seed=1)), 20):
        for example in examples:
            assert (
                images.source.record(example.index).caption == f"number {example.pixels[0, 0, 0]}"
            )


def test_a_break_in_the_data_is_one_line(shards: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source, _ = stream(shards)

    class Gone:
        def __iter__(self) -> Iterator[Any]:
            raise ConnectionError("the hub is gone\nfor now")

    monkeypatch.setattr(source.shards.rows, "shard", lambda *_: Gone())
    with pytest.raises(UserError) as error:
        captions(source, 1)
    assert str(error.value).endswith(": the hub is gone; the same command resumes")


def weights(folder: Path) -> dict[str, torch.Tensor]:
    """All that a run has learned so far, its average and its optimiser's model."""
    kept = load_file(folder / "checkpoint/model.safetensors")
    own = read_training_state(folder / "checkpoint")["trainer"]["model"]
    return kept | {f"own {name}": tensor for name, tensor in own.items()}


@pytest.mark.parametrize(
    "script",
    [
        "dvae",
        pytest.param("dalle", marks=pytest.mark.slow),
        pytest.param("clip", marks=pytest.mark.slow),
    ],
)
def test_an_interrupted_run_ends_at_the_same_weights(
    tmp_path: Path, script: str, run_script: Callable[..., tuple[int, str, str]]
) -> None:
    """With workers in one of the runs, and augmentation and varied captions in all."""
    for number in range(3):
        rows = [
            {"image": encoded(i), "caption": f"a shade of number {i}"}
            for i in range(12 * number, 12 * number + 12)
        ]
        write_parquet(tmp_path / f"shards/{number}.parquet", rows)
    data = ["data.source=stream", f"data.path={tmp_path / 'shards'}", "data.buffer=7"]

    def run(name: str, updates: int, *overrides: str) -> dict[str, torch.Tensor]:
        main, tiny = {
            "dvae": (train_dvae.main, TINY_DVAE),
            "dalle": (train_dalle.main, [*TINY_DALLE, f"tokenizer={tmp_path / 'first/tokenizer'}"]),
            "clip": (train_clip.main, TINY_CLIP),
        }[name.partition("-")[0] if "-" in name else "dvae"]
        options = [*tiny, *data, f"run.out={tmp_path / name}", f"run.updates={updates}"]
        status, printed, error = run_script(main, *options, *overrides)
        assert status == 0, error
        assert "streamed training" in printed
        return weights(tmp_path / name)

    if script == "dalle":
        run("first", 1)
    whole = run(f"{script}-whole", 9)
    run(f"{script}-parts", 5)
    parts = run(f"{script}-parts", 9, "run.log_every=3")
    assert all(torch.equal(whole[name], parts[name]) for name in whole)


@pytest.mark.slow
def test_two_processes_go_on_each_in_its_own_part(
    tmp_path: Path, run_in_two_processes: Callable[..., None]
) -> None:
    for number in range(3):
        write_parquet(tmp_path / f"shards/{number}.parquet", shades(12, 12 * number))
    data = ["data.source=stream", f"data.path={tmp_path / 'shards'}", "data.buffer=5"]

    def run(name: str, updates: int) -> dict[str, torch.Tensor]:
        options = [*data, f"run.out={tmp_path / name}", f"run.updates={updates}"]
        run_in_two_processes("train_dvae.py", *TINY_DVAE, *options)
        kept = sorted(path.name for path in (tmp_path / name).glob("stream-*"))
        assert kept == ["stream-0-of-2.jsonl", "stream-1-of-2.jsonl"]
        return weights(tmp_path / name)

    whole = run("whole", 6)
    run("parts", 4)
    parts = run("parts", 6)
    assert all(torch.equal(whole[name], parts[name]) for name in whole)


def test_codes_of_a_stream_cannot_be_kept(
    shards: Path, tmp_path: Path, run_script: Callable[..., tuple[int, str, str]]
) -> None:
    data = ["data.source=stream", f"data.path={shards}"]
    out = tmp_path / "dvae"
    assert run_script(train_dvae.main, *TINY_DVAE, *data, "run.updates=1", f"run.out={out}")[0] == 0
    tokenizer = f"tokenizer={out / 'tokenizer'}"
    options = [*TINY_DALLE, *data, tokenizer, "codes.mode=cached", f"run.out={tmp_path / 'dalle'}"]
    status, _, error = run_script(train_dalle.main, *options)
    assert status == 2
    assert "codes.mode=cached keeps the codes of all images, and data.source=stream" in error


def test_pixels_of_a_stream_are_those_of_random_access(tmp_path: Path) -> None:
    """The same image and seed give the same example, whichever way the image came."""
    write_parquet(tmp_path / "a.parquet", shades(20))
    source, _ = stream(tmp_path)
    images = ImageDataset(source, 8, AugmentConfig(colour=0.3))
    (key, *_), (example, *_) = (
        next(source.batches(StreamOrder(2, 1))),
        next(batches(images, Shuffled(0, 2, seed=1))),
    )
    values = {"source": "datasets", "path": str(tmp_path), "held_out_share": 0}
    table, _ = open_sources(read_data_config(values, "test"))
    number = int((key.record.caption or "").split()[1])
    expected = ImageDataset(table, 8, AugmentConfig(colour=0.3))[number, key.seed]
    assert np.array_equal(example.pixels, expected.pixels)
