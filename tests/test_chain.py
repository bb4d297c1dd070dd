"""The whole chain in miniature: images -> tokenizer -> transformer -> samples, and resumption."""

import json
import multiprocessing
import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from builders import TINY_DALLE, TINY_DVAE, all_end
from safetensors.torch import load_file

import dalle.codes
import sample
import train_dalle
import train_dvae
from dalle.checkpoint import load_text_to_image
from dalle.codes import cached_codes, encode_images
from dalle.prompt import read_codes
from dalle_base.common.checkpoint import read_training_state
from dalle_base.common.config import read_yaml
from dalle_base.common.images import open_image
from dalle_base.data.batches import ImageDataset
from dalle_base.data.config import AugmentConfig
from dalle_base.data.sources.folder import FolderSource
from dalle_base.training.trainer import Trainer
from dvae.checkpoint import load_tokenizer, tokenizer_fingerprint

ROOT = Path(__file__).parents[1]
Script = Callable[..., tuple[int, str, str]]


def losses(folder: Path) -> list[float]:
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [line["loss"] for line in lines if "loss" in line]


@pytest.fixture
def stage_one(image_folder: Path, tmp_path: Path, run_script: Script) -> Callable[..., Any]:
    def run(name: str, *overrides: str) -> tuple[int, str, str]:
        out = f"run.out={tmp_path / name}"
        return run_script(train_dvae.main, *TINY_DVAE, f"data.path={image_folder}", out, *overrides)

    return run


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("kept")


@pytest.fixture
def stage_two(
    image_folder: Path,
    tmp_path: Path,
    run_script: Script,
    stage_one: Callable[..., Any],
    kept: Path,
) -> Callable[..., Any]:
    """Train a tiny transformer on the codes of tmp_path/dvae, whose training is the same in all."""
    if not (kept / "dvae").exists():
        assert stage_one("dvae", "run.updates=2")[0] == 0
        shutil.copytree(tmp_path / "dvae", kept / "dvae")
    else:
        shutil.copytree(kept / "dvae", tmp_path / "dvae")

    def run(name: str, *overrides: str) -> tuple[int, str, str]:
        return run_script(
            train_dalle.main,
            *TINY_DALLE,
            f"tokenizer={tmp_path / 'dvae/tokenizer'}",
            f"data.path={image_folder}",
            f"run.out={tmp_path / name}",
            *overrides,
        )

    return run


def assert_same_state(first: Path, second: Path) -> None:
    a, b = (load_file(folder / "checkpoint/model.safetensors") for folder in (first, second))
    assert all(torch.equal(a[key], b[key]) for key in a)
    a, b = (read_training_state(folder / "checkpoint")["trainer"] for folder in (first, second))
    assert all(torch.equal(a["model"][key], b["model"][key]) for key in a["model"])


def test_caption_to_images(
    stage_two: Callable[..., Any], tmp_path: Path, run_script: Script
) -> None:
    status, _, error = stage_two("dalle", "run.updates=2", "codes.mode=cached", "codes.variants=2")
    assert status == 0, error
    assert (tmp_path / "dalle/samples/0000002.png").exists()
    model = tmp_path / "dalle/model"
    arguments = ["--model", model, "--text", "a red picture", "--candidates", "3"]
    status, printed, error = run_script(sample.main, *arguments, "--out", tmp_path / "out")
    assert status == 0, error
    folder = tmp_path / "out/a-red-picture"
    assert str(folder) in printed
    record = json.loads((folder / "samples.json").read_text())
    assert (record["seed"], record["text"]) == (0, "a red picture")
    assert len(record["candidates"]) == 3
    for candidate in record["candidates"]:
        assert open_image(folder / candidate["file"]).size == (16, 16)
        assert len(candidate["codes"]) == 16
        assert candidate["log_likelihood"] < 0
    assert open_image(folder / "grid.png").width > 3 * 16


def test_kept_rows_are_the_prompts_own_codes(
    stage_two: Callable[..., Any], tmp_path: Path, run_script: Script, image_folder: Path
) -> None:
    stage_two("dalle", "run.updates=1")
    prompt = image_folder / "03.png"
    arguments = ["--model", tmp_path / "dalle/model", "--text", "x", "--out", tmp_path / "out"]
    status, _, error = run_script(sample.main, *arguments, "--image", prompt, "--keep-rows", "3")
    assert status == 0, error
    given = read_codes(load_text_to_image(tmp_path / "dalle/model"), prompt)
    record = json.loads((tmp_path / "out/x/samples.json").read_text())
    assert record["kept_codes"] == 12
    for candidate in record["candidates"]:
        assert candidate["codes"][:12] == given.tolist()[:12]


def test_an_interrupted_stage_one_equals_an_uninterrupted_one(
    stage_one: Callable[..., Any], tmp_path: Path
) -> None:
    assert stage_one("whole", "run.updates=6")[0] == 0
    assert stage_one("parts", "run.updates=3")[0] == 0
    with (tmp_path / "parts/metrics.jsonl").open("a") as log:
        log.write('{"step": 4, "loss"')  # what a crash may leave behind
    status, printed, _ = stage_one("parts", "run.updates=6")
    assert status == 0
    assert "resumed" in printed
    assert losses(tmp_path / "whole") == losses(tmp_path / "parts")
    assert_same_state(tmp_path / "whole", tmp_path / "parts")


@pytest.mark.parametrize("mode", [pytest.param("cached", marks=pytest.mark.slow), "on_the_fly"])
def test_an_interrupted_stage_two_equals_an_uninterrupted_one(
    stage_two: Callable[..., Any], tmp_path: Path, mode: str
) -> None:
    """With dropout, BPE dropout, the plateau schedule and a sparse average: all of it resumes."""
    options = [
        *(f"codes.mode={mode}", "model.dropout=0.1", "optimiser.schedule=plateau"),
        *("optimiser.plateau_patience=2", "optimiser.ema_every=2", "text.bpe_dropout=0.5"),
    ]
    stage_two("whole", "run.updates=6", *options)
    stage_two("parts", "run.updates=3", *options)
    stage_two("parts", "run.updates=6", *options)
    assert losses(tmp_path / "whole") == losses(tmp_path / "parts")
    assert_same_state(tmp_path / "whole", tmp_path / "parts")


def test_ctrl_c_saves_the_last_state_and_the_same_command_resumes(
    stage_one: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stage_one("whole", "run.updates=5")
    update, handler = Trainer.update, signal.getsignal(signal.SIGINT)

    def interrupted(self: Trainer, loss: torch.Tensor) -> float:
        if self.step == 2:
            signal.raise_signal(signal.SIGINT)
        return update(self, loss)

    monkeypatch.setattr(Trainer, "update", interrupted)
    status, printed, _ = stage_one("cut", "run.updates=5")
    monkeypatch.undo()
    assert status == 130
    assert "saved at update 3; the same command resumes" in printed
    assert signal.getsignal(signal.SIGINT) is handler  # ignored, where a shell says so
    assert stage_one("cut", "run.updates=5")[0] == 0
    assert_same_state(tmp_path / "whole", tmp_path / "cut")


def test_a_non_finite_loss_stops_with_the_step_and_keeps_the_last_state(
    stage_one: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stage_one("run", "run.updates=2")
    update = Trainer.update
    monkeypatch.setattr(Trainer, "update", lambda self, loss: update(self, loss * float("nan")))
    status, _, error = stage_one("run", "run.updates=4")
    assert status == 2
    assert "the loss is nan at update 2" in error
    assert read_training_state(tmp_path / "run/checkpoint")["trainer"]["step"] == 2


def test_a_run_is_not_resumed_under_another_config(stage_one: Callable[..., Any]) -> None:
    stage_one("run", "run.updates=1")
    status, _, error = stage_one("run", "run.updates=2", "optimiser.lr=0.1")
    assert status == 2
    assert "optimiser.lr=0.003, not 0.1" in error


def test_what_changes_no_weight_may_change_when_a_run_is_resumed(
    stage_two: Callable[..., Any], tmp_path: Path
) -> None:
    """Also: which model a run keeps, and how the folder says it is sampled from."""
    stage_two("run", "run.updates=1")
    others = ["previews=[a red heart]", "sampling.temperature=0.5", "keep=last"]
    status, printed, error = stage_two("run", "run.updates=2", *others)
    assert status == 0, error
    assert "resumed" in printed
    folder = tmp_path / "run/model"
    assert read_yaml(folder / "config.yaml")["sampling"]["temperature"] == 0.5
    last = load_file(folder / "model.safetensors")
    average = load_file(tmp_path / "run/checkpoint/model.safetensors")
    assert all(torch.equal(last[key], average[key].bfloat16()) for key in average)
    status, _, error = stage_two("run", "run.updates=3", "keep=first")
    assert status == 2
    assert "keep is 'first'; use one of best, last" in error


def test_a_run_of_an_earlier_version_is_resumed(
    stage_two: Callable[..., Any], tmp_path: Path
) -> None:
    """Its config has keys that were renamed since, and those of all sources at once."""
    options = ["run.updates=2", "data.source=folder"]
    stage_two("whole", *options)
    stage_two("parts", *options, "run.updates=1")
    path = tmp_path / "parts/checkpoint/config.yaml"
    config = read_yaml(path)
    assert config["model"].pop("pattern_options") == {"conv": {"kernel": 3}}
    config["model"]["conv_kernel"] = 3
    config["data"] |= {"split": "train", "count": 20000, "image_column": "image"}
    config["data"] |= {"caption_column": "caption", "artist_column": "", "keywords_column": ""}
    path.write_text(json.dumps(config))  # which is YAML too
    status, printed, error = stage_two("parts", *options)
    assert status == 0, error
    assert "resumed" in printed
    assert_same_state(tmp_path / "whole", tmp_path / "parts")
    path.write_text(path.read_text().replace("kernel: 3", "kernel: 5"))
    status, _, error = stage_two("parts", *options, "run.updates=3")
    assert status == 2
    assert "model.pattern_options.conv.kernel=5, not 3" in error


def test_fine_tuning_starts_from_the_named_weights(
    stage_one: Callable[..., Any], stage_two: Callable[..., Any], tmp_path: Path
) -> None:
    """And a decoder trained further leaves the transformer's tokenizer valid: same codes."""
    folder = tmp_path / "dvae/tokenizer"
    options = [f"init={folder}", "run.updates=1", "model.objective.decoder_only=true"]
    assert stage_one("tuned", *options)[0] == 0
    before, after = (
        load_file(f / "model.safetensors") for f in (folder, tmp_path / "tuned/tokenizer")
    )
    changed = {name.split(".")[0] for name in before if not torch.equal(before[name], after[name])}
    assert changed == {"decoder"}
    stage_two("dalle", "run.updates=1")
    again = [f"init={tmp_path / 'dalle/model'}", f"tokenizer={tmp_path / 'tuned/tokenizer'}"]
    assert stage_two("again", "run.updates=1", "optimiser.lr=1e-9", *again)[0] == 0
    before, after = (
        load_file(tmp_path / f / "model/model.safetensors") for f in ("dalle", "again")
    )
    assert all(torch.allclose(before[name], after[name], atol=1e-3) for name in before)
    assert stage_two("wrong", "model.d_model=24", *again)[0] == 2


def test_a_model_whose_codes_are_another_tokenizers_is_no_silent_start(
    stage_one: Callable[..., Any], stage_two: Callable[..., Any], tmp_path: Path
) -> None:
    """Of the same size: each code would mean something else."""
    stage_two("first", "run.updates=1")
    stage_one("other", "run.updates=1", "run.seed=1")
    folders = [tmp_path / name / "tokenizer" for name in ("dvae", "other")]
    theirs, ours = (tokenizer_fingerprint(load_tokenizer(folder)[0]) for folder in folders)
    for init in ("model", "checkpoint"):
        places = f"init={tmp_path / 'first' / init}", f"tokenizer={folders[1]}"
        if init == "checkpoint":  # a run's model has its text encoding beside the checkpoint
            shutil.copy(tmp_path / "first/text.json", tmp_path / "first/checkpoint")
        status, printed, error = stage_two(f"from-{init}", "run.updates=1", *places)
        assert status == 0, error
        assert f"learned the codes of another image tokenizer (fingerprint {theirs})" in printed
        assert f"tokenizer={folders[1]} ({ours})" in printed
    same = f"init={tmp_path / 'first/model'}"
    assert "another image tokenizer" not in stage_two("again", "run.updates=1", same)[1]


def test_a_transformer_for_another_tokenizer_is_refused(
    stage_two: Callable[..., Any], stage_one: Callable[..., Any], tmp_path: Path, run_script: Script
) -> None:
    status, _, error = stage_two("dalle", "model.rows=5")
    assert status == 2
    assert "model.rows=5 does not fit" in error
    assert "model.rows=4" in error
    stage_two("dalle", "run.updates=1")
    stage_one("other", "run.updates=1", "run.seed=1")
    weights = "tokenizer/model.safetensors"
    (tmp_path / "dalle/model" / weights).write_bytes((tmp_path / "other" / weights).read_bytes())
    arguments = ["--model", tmp_path / "dalle/model", "--text", "x", "--out", tmp_path / "out"]
    status, _, error = run_script(sample.main, *arguments)
    assert status == 2
    assert "not the image tokenizer that this model was trained with" in error


@pytest.mark.slow
def test_two_processes_train_both_stages(
    run_in_two_processes: Callable[..., None], image_folder: Path, tmp_path: Path
) -> None:
    """One process encodes, measures and saves while the other waits or goes on."""
    options = [f"data.path={image_folder}", "run.updates=4", "run.evaluate_every=2"]
    run_in_two_processes("train_dvae.py", *TINY_DVAE, *options, f"run.out={tmp_path / 'dvae'}")
    tokenizer = f"tokenizer={tmp_path / 'dvae/tokenizer'}"
    for mode in ("cached", "on_the_fly"):
        more = [tokenizer, f"codes.mode={mode}", f"run.out={tmp_path / mode}"]
        run_in_two_processes("train_dalle.py", *TINY_DALLE, *options, *more)
        assert len(losses(tmp_path / mode)) == 4
        load_text_to_image(tmp_path / mode / "model")


def interrupted_process(rank: int, arguments: list[str], folder: Path) -> None:
    """Train in one of two processes; the second alone is interrupted, at its third update."""
    torch.set_num_threads(1)
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2"}
    update = Trainer.update

    def interrupt(self: Trainer, loss: torch.Tensor) -> float:
        if self.step == 2 and rank == 1:
            signal.raise_signal(signal.SIGINT)
        return update(self, loss)

    Trainer.update = interrupt
    sys.argv = ["train_dvae.py", *arguments]
    try:
        status = train_dvae.main()
    except SystemExit as stop:
        status = stop.code
    (folder / f"status-{rank}").write_text(str(status))


@pytest.mark.slow
def test_ctrl_c_in_one_of_two_processes_stops_both(
    image_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After the same update: else the other would wait for gradients that never come."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    places = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "ACCELERATE_USE_CPU": "true"}
    for name, value in places.items():
        monkeypatch.setenv(name, value)
    options = [f"data.path={image_folder}", f"run.out={tmp_path / 'run'}", "run.updates=50"]
    arguments = ([*TINY_DVAE, *options], tmp_path)
    running = torch.multiprocessing.spawn(  # type: ignore[attr-defined]
        interrupted_process, arguments, nprocs=2, join=False
    )
    assert all_end(running, waits=4), "they wait for each other"
    assert [(tmp_path / f"status-{rank}").read_text() for rank in range(2)] == ["130", "130"]
    assert read_training_state(tmp_path / "run/checkpoint")["trainer"]["step"] == 3


def write_codes_with_others(number: int, folder: Path, images: Path, together: Any) -> None:
    """Encode a folder's images; have all of the file written when the first puts it in place."""
    torch.set_num_threads(1)
    save = dalle.codes.save_file

    def save_together(*arguments: Any, **options: Any) -> None:
        save(*arguments, **options)
        together.wait(timeout=100)

    dalle.codes.save_file = save_together
    tokenizer, _ = load_tokenizer(folder / "dvae/tokenizer")
    dataset = ImageDataset(FolderSource(str(images)), 16, AugmentConfig())
    encoded = cached_codes(folder / "codes.safetensors", {"images": "key"}, tokenizer, dataset, 2)
    torch.save(encoded._asdict(), folder / f"{number}.pt")


@pytest.mark.slow
def test_two_processes_may_write_one_file_of_codes(
    stage_one: Callable[..., Any], image_folder: Path, tmp_path: Path
) -> None:
    stage_one("dvae", "run.updates=1")
    together = multiprocessing.get_context("spawn").Barrier(2)
    arguments = (tmp_path, image_folder, together)
    torch.multiprocessing.spawn(write_codes_with_others, arguments, nprocs=2)  # type: ignore[attr-defined]
    tokenizer, _ = load_tokenizer(tmp_path / "dvae/tokenizer")
    dataset = ImageDataset(FolderSource(str(image_folder)), 16, AugmentConfig())
    file = tmp_path / "codes.safetensors"
    stored = load_file(file)
    expected = encode_images(tokenizer, dataset, 2)
    for number in range(2):
        own = torch.load(tmp_path / f"{number}.pt", weights_only=True)
        for name, tensor in expected._asdict().items():
            assert torch.equal(own[name], tensor)
            assert torch.equal(stored[name], tensor)
    assert [path.name for path in tmp_path.glob("*codes*")] == [file.name]
    # Under its key the file is read; under another the images are encoded again.
    tokenizer.encode = None  # type: ignore[assignment]
    assert torch.equal(
        cached_codes(file, {"images": "key"}, tokenizer, dataset, 2).codes, expected.codes
    )
    with pytest.raises(TypeError):
        cached_codes(file, {"images": "another key"}, tokenizer, dataset, 2)


def test_a_damaged_file_of_codes_is_written_anew(
    stage_one: Callable[..., Any], image_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    stage_one("dvae", "run.updates=1")
    tokenizer, _ = load_tokenizer(tmp_path / "dvae/tokenizer")
    dataset = ImageDataset(FolderSource(str(image_folder)), 16, None)
    file = tmp_path / "codes.safetensors"
    whole = cached_codes(file, {"images": "key"}, tokenizer, dataset, 1)
    file.write_bytes(file.read_bytes()[:-9])
    capsys.readouterr()
    again = cached_codes(file, {"images": "key"}, tokenizer, dataset, 1)
    assert "codes.safetensors is damaged" in capsys.readouterr().out
    assert torch.equal(whole.codes, again.codes)
    assert torch.equal(load_file(file)["codes"], whole.codes)


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler")
def test_compiled_training_is_the_same_training(image_folder: Path, tmp_path: Path) -> None:
    """In processes of their own, since torch's compiler raises warnings that are not ours."""
    tokenizer = f"tokenizer={tmp_path / 'train_dvae-false/tokenizer'}"
    for script, options in (("train_dvae", TINY_DVAE), ("train_dalle", [*TINY_DALLE, tokenizer])):
        for compiled in ("false", "true"):
            out = tmp_path / f"{script}-{compiled}"
            command = [sys.executable, f"{script}.py", *options, f"data.path={image_folder}"]
            command += [f"run.out={out}", "run.updates=3", f"run.compile={compiled}"]
            subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
        fast, slow = (losses(tmp_path / f"{script}-{compiled}") for compiled in ("true", "false"))
        assert fast == pytest.approx(slow, rel=1e-4)


def test_golden_loss_curves(stage_two: Callable[..., Any], tmp_path: Path) -> None:
    """A change of behaviour that no other test names shows here; rewrite the numbers if meant."""
    stage_two("dalle", "run.updates=4", "text.bpe_dropout=0")
    assert losses(tmp_path / "dvae") == pytest.approx([0.24548, 0.0524709], rel=5e-3)
    assert losses(tmp_path / "dalle") == pytest.approx(
        [2.85103, 2.76295, 2.72675, 2.61904], rel=5e-3
    )
