"""Trackers of runs, and what a run's folder says at the end."""

import json
import re
import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from tiny_runs import DVAE, SHARED

import train_dvae
from dalle_base.common.checkout import commit
from dalle_base.common.errors import UserError
from dalle_base.training import tracking
from dalle_base.training.config import RunConfig
from dalle_base.training.tracking import Tracking, choose_tracker

Script = Callable[..., tuple[int, str, str]]


@pytest.fixture
def train(image_folder: Path, tmp_path: Path, run_script: Script) -> Script:
    """Train a tiny tokenizer in the folder "run"."""

    def run(*overrides: str) -> tuple[int, str, str]:
        words = [*DVAE, *SHARED, "run.log_every=1", f"run.out={tmp_path / 'run'}"]
        return run_script(train_dvae.main, *words, f"data.path={image_folder}", *overrides)

    return run


def written(folder: Path) -> Any:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder / "tensorboard"))
    events.Reload()
    return events


def test_tensorboard_has_the_figures_the_images_and_the_config(
    train: Script, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tracking, "installed", lambda name: name == "tensorboard")
    status, _, error = train("run.evaluate_every=1")
    assert status == 0, error
    events, folder = written(tmp_path / "run"), tmp_path / "run"
    log = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    losses = [(line["step"], line["loss"]) for line in log if "loss" in line]
    found = [(event.step, event.value) for event in events.Scalars("loss")]
    assert found == [(step, pytest.approx(loss)) for step, loss in losses]
    measured = [line for line in log if "psnr" in line]
    assert len(measured) == len(events.Scalars("psnr")) == 2
    images = events.Images("reconstructions")
    assert [image.step for image in images] == [1, 2]
    with Image.open(folder / "reconstructions/0000002.png") as sheet:
        assert (images[1].width, images[1].height) == sheet.size
    (tag,) = (tag for tag in events.Tags()["tensors"] if "config" in tag)
    assert b"codebook_size: 12" in events.Tensors(tag)[0].tensor_proto.string_val[0]


def test_a_run_that_goes_on_voids_what_was_written_beyond_its_checkpoint(tmp_path: Path) -> None:
    first = Tracking("tensorboard", tmp_path, RunConfig(), 0)
    for step in (1, 2, 3):
        first.log({"loss": float(step)}, step)
    first.close()
    again = Tracking("tensorboard", tmp_path, RunConfig(), 2)
    again.log({"loss": 9.0}, 3)
    again.close()
    found = [(event.step, event.value) for event in written(tmp_path).Scalars("loss")]
    assert found == [(1, 1.0), (2, 2.0), (3, 9.0)]


def test_a_run_has_tensorboard_by_default_where_that_is_installed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for there in (True, False):
        monkeypatch.setattr(tracking, "installed", lambda _, there=there: there)
        assert choose_tracker("auto") == ("tensorboard" if there else "")
        assert choose_tracker("none") == ""


@pytest.mark.parametrize("name", ["tensorboard", "wandb"])
def test_a_tracker_that_is_not_installed_is_named_before_anything_is_written(
    name: str, train: Script, tmp_path: Path
) -> None:
    status, _, error = train(f"run.tracker={name}")
    assert status == 2
    assert error == (
        f"error: run.tracker={name} is not installed: pip install {name}, or write "
        "run.tracker=none\n"
    )
    assert not (tmp_path / "run").exists()


def test_an_unknown_tracker_is_named(train: Script) -> None:
    status, _, error = train("run.tracker=mlflow")
    assert status == 2
    assert "run.tracker is 'mlflow'; use auto, tensorboard, wandb, none" in error


@pytest.fixture
def wandb(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[dict[str, Any]]:
    """Stands in for Weights & Biases, with nobody logged in; what it was asked for."""
    asked: list[dict[str, Any]] = []
    log = lambda figures, step: asked.append({"step": step, **figures})  # noqa: E731

    def init(**options: Any) -> Any:
        asked.append(options)
        return types.SimpleNamespace(log=log, finish=lambda: asked.append({"finished": True}))

    module: Any = types.ModuleType("wandb")
    module.init, module.log, module.Image = init, log, lambda image: image.size
    module.config = types.SimpleNamespace(update=lambda values, **_: asked.append(values))
    monkeypatch.setitem(sys.modules, "wandb", module)
    monkeypatch.setattr(tracking, "installed", lambda _: True)
    for key in tracking.KEYS:
        monkeypatch.delenv(key, raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    return asked


def test_wandb_stays_offline_where_nobody_has_logged_in(
    wandb: list[dict[str, Any]], train: Script, tmp_path: Path
) -> None:
    status, _, error = train("run.tracker=wandb", "run.evaluate_every=2")
    assert status == 0, error
    assert "nobody has logged in" in error
    assert wandb[0]["mode"] == "offline"
    assert wandb[0]["dir"] == str(tmp_path / "run")
    assert "codebook_size: 12" in wandb[1]["config"]
    assert {line["step"] for line in wandb if "loss" in line} == {1, 2}
    assert next(line for line in wandb if "reconstructions" in line)["step"] == 2
    assert wandb[-1] == {"finished": True}


@pytest.mark.parametrize("how", ["variable", "netrc"])
def test_wandb_goes_online_for_those_who_have_logged_in(
    how: str, wandb: list[dict[str, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if how == "variable":
        monkeypatch.setenv("WANDB_API_KEY", "a key")
    else:
        netrc = tmp_path / "netrc"
        netrc.write_text("machine api.wandb.ai\n  login user\n  password key\n")
        netrc.chmod(0o600)
    Tracking("wandb", tmp_path, RunConfig(), 0).close()
    assert "mode" not in wandb[0]


def test_a_tracker_that_cannot_begin_is_one_line(
    wandb: list[dict[str, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def init(**_: Any) -> None:
        raise RuntimeError("api.wandb.ai cannot be reached\nmore")

    monkeypatch.setattr(sys.modules["wandb"], "init", init)
    with pytest.raises(UserError, match=r"^run.tracker=wandb: api.wandb.ai cannot be reached; or"):
        Tracking("wandb", tmp_path, RunConfig(), 0)


def test_a_runs_folder_says_how_it_was_made(train: Script, tmp_path: Path) -> None:
    status, _, error = train("run.updates=6")
    assert status == 0, error
    text = (tmp_path / "run/README.md").read_text("utf-8")
    assert text.startswith("# run\n\n```bash\npython script model.image_size=16")
    assert "run.updates=6\n```" in text
    assert f"| commit | {commit()} |" in text
    assert "| updates | 6 of 4 images |" in text
    assert re.search(r"\| device \| cpu \(\d+ threads?\), processes: 1 \|", text)
    assert re.search(r"\| time \| 0\.0\d hours in all \|", text)
    assert re.search(r"\| versions \| Python 3.*torch 2", text)
    with Image.open(tmp_path / "run/curves.png") as curves:
        assert curves.width > 300
    before = (tmp_path / "run/README.md").read_bytes()
    assert train("run.updates=6")[0] == 0  # nothing to train, and nothing to say anew
    assert (tmp_path / "run/README.md").read_bytes() == before
