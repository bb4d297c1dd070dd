"""The index of images: what it encodes, keeps and refuses; exact search; search.py."""

import json
import os
import sys
import types
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from rankers import colour_ranker, plain, untrained
from safetensors.numpy import load_file, save_file

import search
from dalle_base.common.errors import UserError
from dual_encoder import index as indexing
from dual_encoder.checkpoint import load_dual_encoder, save_dual_encoder
from dual_encoder.index import (
    Entry,
    ImageIndex,
    InterruptedUpdate,
    model_fingerprint,
    read_index,
    search_index,
    update_index,
    write_index,
)
from dual_encoder.ranker import Ranker

Script = Callable[..., tuple[int, str, str]]


@pytest.fixture
def coloured(tmp_path: Path) -> Path:
    folder = tmp_path / "coloured"
    (folder / "deeper").mkdir(parents=True)
    plain("red").save(folder / "r.png")
    plain("green").save(folder / "g.png")
    plain("blue").save(folder / "deeper" / "b.png")
    return folder


@pytest.fixture
def encoded(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The number of images in each call of `image_features`."""
    counts: list[int] = []
    original = Ranker.image_features

    def counting(self: Ranker, images, batch_size: int = 64):
        counts.append(len(images))
        return original(self, images, batch_size)

    monkeypatch.setattr(Ranker, "image_features", counting)
    return counts


def counts(update: indexing.Update) -> tuple[int, ...]:
    return tuple(update[1:])


def test_text_finds_its_image_and_an_image_its_like(coloured: Path, tmp_path: Path) -> None:
    ranker = colour_ranker()
    index = update_index(tmp_path / "i", coloured, ranker).index
    for colour, name in (("red", "r.png"), ("blue", "deeper/b.png")):
        query = ranker.text_features([f"a {colour} thing"])[0].numpy()
        assert search_index(index, query, 1)[0].path == coloured / name
    like = ranker.image_features([plain("green", 30)])[0].numpy()
    hits = search_index(index, like)
    assert hits[0].path == coloured / "g.png"
    assert hits[0].score == pytest.approx(1, abs=1e-3)
    assert len(hits) == 3


def test_an_update_encodes_only_what_is_new_or_changed(
    coloured: Path, tmp_path: Path, encoded: list[int]
) -> None:
    path, ranker = tmp_path / "i", untrained()
    assert counts(update_index(path, coloured, ranker)) == (3, 0, 0, 0, 0, 0)
    assert counts(update_index(path, coloured, ranker)) == (0, 0, 0, 3, 0, 0)
    assert encoded == [3]
    plain("blue").save(coloured / "new.png")
    plain("blue").save(coloured / "r.png")  # may have its old size: the time tells
    os.utime(coloured / "r.png", ns=(1, 1))
    (coloured / "g.png").unlink()
    (coloured / "bad.png").write_bytes(b"?")
    update = update_index(path, coloured, ranker)
    assert counts(update) == (1, 1, 1, 1, 1, 0)
    assert sum(encoded) == 5
    assert [e.path for e in update.index.entries] == ["deeper/b.png", "new.png", "r.png"]
    fresh = update_index(tmp_path / "other", coloured, ranker).index
    assert fresh.entries == read_index(path).entries
    np.testing.assert_allclose(fresh.features, read_index(path).features, atol=2e-3)
    assert os.access(path, os.R_OK)
    assert path.stat().st_mode & 0o777 == (coloured / "r.png").stat().st_mode & 0o777


def test_an_image_that_is_no_longer_readable_leaves(coloured: Path, tmp_path: Path) -> None:
    update_index(tmp_path / "i", coloured, untrained())
    (coloured / "r.png").write_bytes(b"?")
    assert counts(update_index(tmp_path / "i", coloured, untrained())) == (0, 0, 0, 2, 1, 0)
    assert "r.png" not in [entry.path for entry in read_index(tmp_path / "i").entries]


def test_ctrl_c_keeps_what_is_done(
    coloured: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, ranker = tmp_path / "i", untrained()
    update_index(path, coloured, ranker)
    before = read_index(path)
    for name in ("r.png", "g.png"):
        plain("blue").save(coloured / name)
        os.utime(coloured / name, ns=(1, 1))
    original, calls = Ranker.image_features, []

    def interrupted(self: Ranker, images, batch_size: int = 64):
        calls.append(len(images))
        if len(calls) == 2:
            raise KeyboardInterrupt
        return original(self, images, batch_size)

    monkeypatch.setattr(Ranker, "image_features", interrupted)
    with pytest.raises(InterruptedUpdate) as stop:
        update_index(path, coloured, ranker, batch_size=1)
    assert counts(stop.value.update) == (0, 1, 0, 1, 0, 1)
    after = read_index(path)
    assert [entry.changed == 1 for entry in after.entries] == [False, True, False]
    np.testing.assert_array_equal(after.features[2], before.features[2])
    assert counts(update_index(path, coloured, ranker)) == (0, 1, 0, 2, 0, 0)


def test_a_failed_write_leaves_the_index_and_no_rubbish(
    coloured: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "kept" / "i"
    update_index(path, coloured, untrained())
    before = path.read_bytes()
    plain("red").save(coloured / "more.png")

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(indexing, "save_file", full)
    with pytest.raises(UserError, match="the disk is full"):
        update_index(path, coloured, untrained())
    assert path.read_bytes() == before
    assert list(path.parent.iterdir()) == [path]


def test_an_index_of_another_model_or_folder_is_refused(coloured: Path, tmp_path: Path) -> None:
    path = tmp_path / "i"
    update_index(path, coloured, untrained())
    before = path.read_bytes()
    with pytest.raises(UserError, match="made with another model: give that one with --model"):
        update_index(path, coloured, untrained(seed=1))
    with pytest.raises(UserError, match=r"is the index of .*coloured, not of .*deeper"):
        update_index(path, coloured / "deeper", untrained())
    assert path.read_bytes() == before


def test_the_fingerprint_covers_what_is_not_in_the_weights() -> None:
    ranker = untrained()
    first = model_fingerprint(ranker.model)
    ranker.model.mean += 0.1
    assert model_fingerprint(ranker.model) != first
    ranker = untrained()
    ranker.model.config.activation = "gelu"
    assert model_fingerprint(ranker.model) != first


def test_damaged_and_foreign_files_are_refused_and_stay(coloured: Path, tmp_path: Path) -> None:
    path, good = tmp_path / "i", tmp_path / "good"
    update_index(good, coloured, untrained())
    whole, tensors = good.read_bytes(), load_file(good)
    about = {"format": indexing.FORMAT, "version": "1", "model": "m", "root": '"/"'}

    def stored(about: dict[str, str], **changes: np.ndarray) -> bytes:
        save_file({**tensors, **changes}, path, metadata=about)
        return path.read_bytes()

    nan = np.full_like(tensors["features"], np.nan)
    for content, message in (
        (whole[:-9], "is damaged"),
        (b"", "is damaged"),
        (b"GIF89a" * 30, "is damaged"),
        (stored({}), "is not an index of images"),
        (stored({**about, "version": "2"}), "of version 2"),
        (stored({**about, "root": "{"}), "is damaged"),
        (stored(about, features=tensors["features"][:2]), "2 features of 3 images"),
        (stored(about, features=nan), "not finite"),
        (stored(about, entries=tensors["entries"][:-1]), "is damaged"),
    ):
        path.write_bytes(content)
        with pytest.raises(UserError, match=message) as error:
            update_index(path, coloured, untrained())
        assert "\n" not in str(error.value)
        assert path.read_bytes() == content


def test_an_index_made_before_the_packages_moved_is_read(coloured: Path, tmp_path: Path) -> None:
    path = tmp_path / "i"
    index = update_index(path, coloured, untrained()).index
    about = {"format": "index of pictures", "version": "1", "model": index.model}
    about |= {"root": json.dumps(str(coloured))}
    save_file(load_file(path), path, metadata=about)
    assert counts(update_index(path, coloured, untrained())) == (0, 0, 0, 3, 0, 0)


def of(features: np.ndarray) -> ImageIndex:
    entries = [Entry(f"{i:06d}", 0, 0) for i in range(len(features))]
    return ImageIndex(Path("/p"), "m", entries, features.astype(np.float16))


def names(index: ImageIndex, query: np.ndarray, top: int, **options: bool) -> list[int]:
    return [int(hit.path.name) for hit in search_index(index, query, top, **options)]


@pytest.fixture
def fake_faiss(monkeypatch: pytest.MonkeyPatch) -> None:
    """As much of faiss as is called, with the same shapes; of ties it returns the last first."""

    class IndexFlatIP:
        def __init__(self, width: int) -> None:
            self.rows = np.empty((0, width), np.float32)

        def add(self, rows: np.ndarray) -> None:
            assert rows.dtype == np.float32
            self.rows = np.concatenate([self.rows, rows])

        def search(self, queries: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
            assert queries.dtype == np.float32
            scores = self.rows @ queries[0]
            order = np.argsort(scores, kind="stable")[::-1][:count]
            return scores[order][None], order[None]

        def range_search(self, queries: np.ndarray, above: float) -> tuple[np.ndarray, ...]:
            scores = self.rows @ queries[0]
            found = np.flatnonzero(scores > above)[::-1]
            return np.array([0, len(found)]), scores[found], found

    module = types.ModuleType("faiss")
    module.IndexFlatIP = IndexFlatIP  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "faiss", module)


def compare_with_sorting(faiss: bool) -> None:
    """Search random rows, many of them twice, in blocks and at all sizes, against a full sort."""
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(40, 8))
    rows = np.concatenate([rows, rows, rows[:20]])[rng.permutation(100)]
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    index, query = of(rows), rows[3].astype(np.float32)
    scores = (index.features.astype(np.float64) @ query).round(6)
    expected = sorted(range(100), key=lambda i: (-scores[i], i))
    for top in (1, 2, 3, 50, 99, 100, 1000):
        assert names(index, query, top, faiss=faiss) == expected[:top]


@pytest.mark.parametrize("block", [1, 7, 100, 1000])
def test_search_is_a_sort_by_score_and_path(block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(indexing, "BLOCK", block)
    compare_with_sorting(faiss=False)


def test_ties_go_by_path_however_blocks_fall(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(indexing, "BLOCK", 64)
    rng = np.random.default_rng(0)
    row = rng.normal(size=(1, 33))
    row /= np.linalg.norm(row)
    query = row[0].astype(np.float32)
    assert names(of(np.repeat(row, 1001, axis=0)), query, 5) == [0, 1, 2, 3, 4]


@pytest.mark.usefixtures("fake_faiss")
def test_faiss_finds_the_same() -> None:
    compare_with_sorting(faiss=True)


@pytest.mark.slow
def test_the_real_faiss_finds_the_same() -> None:
    pytest.importorskip("faiss")
    compare_with_sorting(faiss=True)


def test_without_faiss_a_line_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "faiss", None)
    with pytest.raises(UserError, match=r'faiss is not installed: `pip install -e "\.\[search\]"`'):
        search_index(of(np.eye(3)), np.ones(3), faiss=True)


def test_paths_that_are_no_unicode_come_back(tmp_path: Path) -> None:
    index = ImageIndex(
        Path("/p\udcff"), "m", [Entry("é\udcfe.png", 3, 2**62)], np.ones((1, 2), np.float16)
    )
    write_index(tmp_path / "i", index)
    stored = read_index(tmp_path / "i")
    assert stored[:3] == index[:3]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("ranker") / "model"
    save_dual_encoder(folder, colour_ranker())
    return folder


def test_the_script_indexes_and_finds(
    model: Path, coloured: Path, tmp_path: Path, run_script: Script
) -> None:
    file = tmp_path / "images.index"
    status, printed, error = run_script(
        search.main, "index", coloured, "--index", file, "--model", model
    )
    assert status == 0, error
    assert "3 images; 3 new, 0 changed, 0 dropped, 0 unchanged" in printed
    arguments = ["--index", file, "--model", model, "--top", "2", "--out", tmp_path / "out"]
    arguments += ["--json", tmp_path / "found.json"]
    status, printed, error = run_script(search.main, "find", "a blue thing", *arguments)
    assert status == 0, error
    assert str(coloured / "deeper" / "b.png") in printed.splitlines()[0]
    record = json.loads((tmp_path / "found.json").read_text())
    assert record["text"] == "a blue thing"
    assert Path(record["results"][0]["picture"]).name == "b.png"
    assert record["results"][0]["score"] > record["results"][1]["score"]
    assert (tmp_path / "out" / "sheet.png").exists()
    (coloured / "g.png").rename(coloured.parent / "query.png")
    for option in ("--image", "--picture"):  # the second name is the older one
        query = [option, coloured.parent / "query.png"]
        status, printed, error = run_script(search.main, "find", *arguments, *query)
        assert status == 0, error
        assert str(coloured / "g.png") in printed.splitlines()[0]
    assert "not on the sheet" in error


def test_the_device_is_chosen_and_named(
    model: Path, coloured: Path, tmp_path: Path, run_script: Script
) -> None:
    shared = ["--index", tmp_path / "i", "--model", model, "--device"]
    for arguments in (["index", coloured], ["find", "red"]):
        status, _, error = run_script(search.main, *arguments, *shared, "cpu")
        assert status == 0, error
        assert "device: cpu" in error.splitlines()
        status, _, error = run_script(search.main, *arguments, *shared, "nonsense")
        assert status == 2
        assert "'nonsense' is none of auto, cpu, cuda, mps" in error


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["find"], "either a text or --image"),
        (["find", "red", "--image", "x.png"], "either a text or --image"),
        (["find", " "], "is empty"),
        (["find", "red", "--top", "0"], "--top is 0"),
        (["find", "--image", "nowhere.png"], "--image: not a readable image"),
        (["find", "red", "--index", "nowhere"], "no index nowhere: make one with"),
        (["find", "red", "--model", "nowhere"], "no checkpoint folder nowhere"),
        (["index", "nowhere"], "no folder nowhere"),
        (["index", "configs"], "no images under"),
        (["index", "docs", "--index", "/proc/none/i"], "cannot write into /proc/none: "),
    ],
)
def test_bad_input_is_one_line_and_the_index_stays(
    arguments: list[str],
    named: str,
    model: Path,
    tmp_path: Path,
    run_script: Script,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(Path(__file__).parents[1])
    file = tmp_path / "i"
    write_index(
        file,
        ImageIndex(
            Path(arguments[1]).resolve() if arguments[0] == "index" else tmp_path,
            model_fingerprint(load_dual_encoder(model).model),
            [Entry("a.png", 1, 1)],
            np.ones((1, 12), np.float16),
        ),
    )
    before = file.read_bytes()
    if "--index" not in arguments:
        arguments = [*arguments, "--index", str(file)]
    if "--model" not in arguments:
        arguments = [*arguments, "--model", str(model)]
    status, _, error = run_script(search.main, *arguments)
    assert status == 2
    lines = [line for line in error.splitlines() if line.startswith("error:")]
    assert len(lines) == 1
    assert named in lines[0]
    assert file.read_bytes() == before


def test_the_script_says_what_an_interruption_kept(
    model: Path,
    coloured: Path,
    tmp_path: Path,
    run_script: Script,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def interrupted(*_: object) -> torch.Tensor:
        raise KeyboardInterrupt

    monkeypatch.setattr(Ranker, "image_features", interrupted)
    arguments = ["index", coloured, "--index", tmp_path / "i", "--model", model]
    status, _, error = run_script(search.main, *arguments)
    assert status == 130
    assert "3 left for the next time" in error
    assert not (tmp_path / "i").exists()
