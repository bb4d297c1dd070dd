"""Paths of models that are nearly right, and what is found from another folder."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

import classify
import evaluate
import sample
import search
from dalle.checkpoint import load_text_to_image
from dalle_base.common.checkout import CHECKOUT, in_checkout
from dalle_base.common.checkpoint import read_weights
from dalle_base.common.config import load_config
from dalle_base.common.errors import UserError
from dalle_base.common.model_folders import (
    DUAL_ENCODER,
    RUN,
    TEXT_TO_IMAGE,
    TOKENIZER,
    find_model,
    kind_of,
)
from dalle_base.data.sources import data_of
from dual_encoder.checkpoint import load_dual_encoder
from dvae.checkpoint import load_tokenizer
from train_dvae import TrainDVAE

Script = Callable[..., tuple[int, str, str]]
EMOJI = CHECKOUT / "models/emoji"


def make(folder: Path, config: str, text: bool = False) -> Path:
    """A folder that looks like a model's, without weights worth the name."""
    folder.mkdir(parents=True)
    (folder / "model.safetensors").touch()
    (folder / "config.yaml").write_text(config)
    if text:
        (folder / "text.json").write_text("{}")
    return folder


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    """Folders of runs of the three scripts, as they leave them."""
    for name, inner, config, text in (
        ("my-dvae", "tokenizer", "tokenizer: dvae\nmodel: {}", False),
        ("my-dvae", "checkpoint", "tokenizer: dvae\nmodel: {}\nrun: {}", False),
        ("my-dalle", "model", "model: {}\nsampling: {}", True),
        ("my-dalle", "model/tokenizer", "tokenizer: dvae\nmodel: {}", False),
        ("my-dalle", "checkpoint", "tokenizer: x\nmodel: {}\ntext: {}", False),
        ("my-clip", "model", "dual_encoder: {}", True),
        ("my-clip", "checkpoint", "model: {}\ntext: {}", False),
    ):
        make(tmp_path / name / inner, config, text)
    (tmp_path / "new").mkdir()
    (tmp_path / "new/metrics.jsonl").touch()
    (tmp_path / "dalle.pt").touch()
    (tmp_path / "my-dalle/dalle.ckpt").touch()
    return tmp_path


def test_kinds_are_told_by_what_a_folder_holds(runs: Path) -> None:
    assert kind_of(runs / "my-dvae/tokenizer") == TOKENIZER
    assert kind_of(runs / "my-dvae/checkpoint") == TOKENIZER
    assert kind_of(runs / "my-dalle/model") == TEXT_TO_IMAGE
    assert kind_of(runs / "my-dalle/checkpoint") == RUN
    assert kind_of(runs / "my-clip/model") == DUAL_ENCODER
    assert kind_of(runs / "my-clip/checkpoint") == RUN
    assert kind_of(runs) == ""
    assert [kind_of(EMOJI / name) for name in (".", "tokenizer", "reranker")] == [
        *(TEXT_TO_IMAGE, TOKENIZER, DUAL_ENCODER)
    ]


@pytest.mark.parametrize(
    ("given", "wanted", "meant"),
    [
        ("my-dalle", TEXT_TO_IMAGE, "my-dalle/model"),
        ("my-dalle", "", "my-dalle/model"),
        ("my-dalle/checkpoint", TEXT_TO_IMAGE, "my-dalle/model"),
        ("my-dalle/mdoel", TEXT_TO_IMAGE, "my-dalle/model"),
        ("my-dalle/model/model.safetensors", TEXT_TO_IMAGE, "my-dalle/model"),
        ("my-dalle/model/text.json", TEXT_TO_IMAGE, "my-dalle/model"),
        ("my-dalle/model", TOKENIZER, "my-dalle/model/tokenizer"),
        ("my-dalle/model/tokenizer", TEXT_TO_IMAGE, "my-dalle/model"),
        ("my-dale/model", TEXT_TO_IMAGE, "my-dalle/model"),
        ("my-dale", TEXT_TO_IMAGE, "my-dalle/model"),
        ("my-dalle/dalle.ckpt", TEXT_TO_IMAGE, "my-dalle/model"),
        ("my-dvae", TOKENIZER, "my-dvae/tokenizer"),
        ("my-dvae", "", "my-dvae/tokenizer"),
        ("dvae/tokenizer", TOKENIZER, "my-dvae/tokenizer"),
        ("my-clip", DUAL_ENCODER, "my-clip/model"),
    ],
)
def test_a_path_that_is_nearly_right_names_what_may_be_meant(
    runs: Path, given: str, wanted: str, meant: str
) -> None:
    with pytest.raises(UserError) as error:
        find_model(runs / given, wanted)
    assert str(error.value).endswith(f"; did you mean {runs / meant}?")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("given", "wanted", "words"),
    [
        ("dalle.pt", TEXT_TO_IMAGE, "is a file.*published-weights"),
        ("new", TEXT_TO_IMAGE, "has not written a model yet"),
        ("my-dvae", TEXT_TO_IMAGE, "it has no model.safetensors$"),
        ("my-dvae/tokenizer", DUAL_ENCODER, "is not a dual encoder but an image tokenizer$"),
        ("qqqq", "", "no checkpoint folder .*qqqq$"),
        ("a\0b", "", "no checkpoint folder"),
        ("x" * 5000, "", "no checkpoint folder"),
    ],
)
def test_where_nothing_can_be_meant_it_says_what_is_there(
    runs: Path, given: str, wanted: str, words: str
) -> None:
    with pytest.raises(UserError, match=words):
        find_model(runs / given, wanted)


def test_every_loader_looks(runs: Path) -> None:
    for load, name, meant in (
        (load_text_to_image, "my-dalle", "my-dalle/model"),
        (load_tokenizer, "my-dvae", "my-dvae/tokenizer"),
        (load_dual_encoder, "my-clip", "my-clip/model"),
        (read_weights, "my-dvae", "my-dvae/tokenizer"),
    ):
        with pytest.raises(UserError, match=f"did you mean {runs / meant}"):
            load(runs / name)


@pytest.mark.parametrize("script", ["train_dvae", "train_dalle", "train_clip"])
def test_init_of_a_runs_folder_names_the_model_in_it(
    script: str, runs: Path, image_folder: Path, run_script: Script
) -> None:
    module = __import__(script)
    name = script.replace("train_", "my-")
    inner = "tokenizer" if script == "train_dvae" else "model"
    status, _, error = run_script(
        module.main,
        *(
            "size=small",
            f"init={runs / name}",
            f"data.path={image_folder}",
            f"run.out={runs / 'r'}",
        ),
        *(("tokenizer=models/shapes/tokenizer",) if script == "train_dalle" else ()),
    )
    assert status == 2
    assert f"did you mean {runs / name / inner}?" in error


def test_what_ships_is_found_from_another_folder(
    tmp_path: Path, run_script: Script, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    image = CHECKOUT / "docs/examples/red-apple.png"
    shutil.copy(image, tmp_path / "apple.png")
    sampled = ("--text", "red circle", "--candidates", "1", "--model", "models/shapes")
    for main, arguments in (
        (sample.main, sampled),
        (classify.main, ("apple.png", "--labels", "a red apple", "a car")),
        (search.main, ("index", ".", "--index", "my.index")),
        (search.main, ("find", "apple", "--index", "my.index")),
    ):
        status, _, error = run_script(main, *arguments)
        assert status == 0, error
    assert (tmp_path / "out/red-circle/grid.png").exists()
    file = "configs/dvae/folder.yaml"
    assert load_config(TrainDVAE, "", ["--config", file]).size == "small"
    assert data_of(Path(file)).augment.flip == "none"


def test_what_is_in_the_working_folder_comes_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert in_checkout("models/emoji") == EMOJI
    assert in_checkout("models/none") == Path("models/none")
    make(tmp_path / "models/emoji", "dual_encoder: {}")
    assert in_checkout("models/emoji") == Path("models/emoji")
    assert find_model("models/emoji") == Path("models/emoji")


def test_evaluate_names_the_model_in_a_runs_folder(runs: Path, run_script: Script) -> None:
    status, _, error = run_script(
        evaluate.main, str(runs / "my-dalle"), "--config", "configs/dalle/folder.yaml"
    )
    assert status == 2
    assert f"did you mean {runs / 'my-dalle/model'}?" in error
