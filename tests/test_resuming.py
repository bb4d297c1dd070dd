"""What may differ when a run is resumed, what is refused, and what is changed on purpose."""

import json
import shutil
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from torch import nn

import train_dvae
from dalle_base.common.checkpoint import TRAINING, read_training_state
from dalle_base.common.errors import UserError
from dalle_base.common.free import Place, options
from dalle_base.data.config import DataConfig
from dalle_base.data.fingerprint import data_fingerprint
from dalle_base.data.sources.folder import FolderSource
from dalle_base.training import run as run_module
from dalle_base.training.changes import load_run_config
from dalle_base.training.config import RunConfig
from dalle_base.training.keeping import keep_checkpoint, restore_checkpoint
from dalle_base.training.optimiser_state import load_optimiser
from dalle_base.training.resuming import check_resumed, is_complete, trim_log
from dalle_base.training.run import Run
from train_clip import TrainDualEncoder
from train_dalle import TrainDALLE
from train_dvae import TrainDVAE

Script = Callable[..., tuple[int, str, str]]
TINY = [
    *("model.image_size=16", "model.grid=4", "model.codebook_size=12", "model.network.width=8"),
    *("model.network.groups=2", "model.network.blocks=1", "model.network.decoder_init=8"),
    *("model.network.stem_stride=2", "optimiser.lr=0.003", "run.log_every=1", "run.batch_size=4"),
]


@pytest.fixture
def train(tmp_path: Path, image_folder: Path, run_script: Script) -> Callable[..., Any]:
    """Train a tiny tokenizer in tmp_path/run."""

    def run(*arguments: str) -> tuple[int, str, str]:
        places = f"data.path={image_folder}", f"run.out={tmp_path / 'run'}"
        return run_script(train_dvae.main, *TINY, *places, *arguments)

    return run


def lines(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def step(folder: Path) -> int:
    return read_training_state(folder / "checkpoint")["trainer"]["step"]


def test_a_setting_is_changed_on_purpose_takes_effect_and_is_recorded(
    train: Callable[..., Any], tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    train("run.updates=1")
    status, _, error = train("run.updates=2", "optimiser.lr=0.001", "optimiser.weight_decay=0.5")
    assert status == 2
    assert "optimiser.lr=0.003, not 0.001 and optimiser.weight_decay=0.0001, not 0.5" in error
    advice = "--change optimiser.lr=0.001 --change optimiser.weight_decay=0.5"
    assert advice in error
    assert error.count("\n") == 1
    status, printed, error = train("run.updates=2", *advice.split())  # as it is typed
    assert status == 0, error
    assert "changed on purpose: optimiser.lr=0.003 before, 0.001 from here on" in printed
    state = read_training_state(folder / "checkpoint")
    change = {"optimiser.lr": [0.003, 0.001], "optimiser.weight_decay": [0.0001, 0.5]}
    assert state["extra"]["changes"] == [{"step": 1, "changes": change}]
    assert [line for line in lines(folder) if "changes" in line] == state["extra"]["changes"]
    groups = state["trainer"]["optimiser"]["param_groups"]
    assert {group["weight_decay"] for group in groups} == {0.5, 0.0}
    assert [line["lr"] for line in lines(folder) if "lr" in line] == pytest.approx([0.003, 0.001])
    # From here on it is a run with that setting.
    assert train("run.updates=3", "optimiser.lr=0.001", "optimiser.weight_decay=0.5")[0] == 0
    assert train("run.updates=4")[0] == 2
    assert [line for line in lines(folder) if "changes" in line] == state["extra"]["changes"]


def test_a_loss_that_is_not_finite_names_a_command_that_goes_on(
    train: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train("run.updates=2")
    update = run_module.Trainer.update
    with monkeypatch.context() as patch:
        patch.setattr(
            run_module.Trainer, "update", lambda self, loss: update(self, loss * float("nan"))
        )
        status, _, error = train("run.updates=3")
    assert status == 2
    assert "--change optimiser.lr=LOWER (now 0.003), --change optimiser.clip=1 or" in error
    assert train("run.updates=3", *["--change", "optimiser.lr=0.001"])[0] == 0
    assert (
        train("run.updates=4", *["--change", "optimiser.lr=1e-3", "--change", "optimiser.clip=1"])[
            0
        ]
        == 0
    )
    assert step(tmp_path / "run") == 4


def test_what_cannot_change_what_is_learned_may_differ(
    train: Callable[..., Any], tmp_path: Path, image_folder: Path
) -> None:
    """Among it the place of the data, if the same is there."""
    train("run.updates=1")
    moved = tmp_path / "moved"
    shutil.copytree(image_folder, moved)
    other = ["data.workers=1", "held_out_images=3", "run.save_every=7", "precision=float32"]
    status, printed, error = train("run.updates=2", *other, f"data.path={moved}")
    assert status == 0, error
    assert "resumed" in printed
    Image.new("RGB", (8, 8)).save(moved / "05.png")  # another image in its place
    status, _, error = train("run.updates=3", f"data.path={moved}")
    assert status == 2
    assert "images or captions are not those that the run began with" in error


def test_other_data_in_the_same_place_is_refused_or_taken_on_purpose(
    train: Callable[..., Any], tmp_path: Path, image_folder: Path
) -> None:
    train("run.updates=1")
    (image_folder / "03.png").unlink()
    status, _, error = train("run.updates=2")
    assert status == 2
    assert "images or captions are not those that the run began with" in error
    assert "--change data" in error
    status, printed, error = train("run.updates=2", "--change", "data")
    assert status == 0, error
    assert "changed on purpose: data=" in printed
    assert train("run.updates=3")[0] == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--change"], "--change needs what to change"),
        (["--change", "--config"], "--change needs what to change"),
        (["--change", "optimiser.rl=3"], "unknown key optimiser.rl; did you mean optimiser.lr"),
    ],
)
def test_mistyped_changes_are_named(arguments: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        load_run_config(TrainDVAE, "", arguments)


def test_changes_are_laid_over_all_else_and_need_no_value() -> None:
    arguments = ["--change", "optimiser.lr=1", "optimiser.lr=2", "--change", "data"]
    config = load_run_config(TrainDALLE, "", arguments)
    assert config.optimiser.lr == 1
    assert config.run.changed == ["optimiser.lr", "data"]


FREE = {
    *("run.out", "run.updates", "run.minutes", "run.save_every", "run.keep_last", "run.changed"),
    *("run.log_every", "run.evaluate_every", "run.compile", "run.mixed_precision"),
    *("data.workers", "held_out_images"),
}


@pytest.mark.parametrize("schema", [TrainDVAE, TrainDALLE, TrainDualEncoder])
def test_options_say_whether_they_are_free(schema: type) -> None:
    found = options(schema())
    free = {key for key, option in found.items() if option.free}
    assert free >= FREE
    watched = {f"optimiser.{name}" for name in ("non_finite", "most_skips", "spike", "on_spike")}
    assert watched <= free
    bound = ("optimiser", "model.network", "model.vision", "text", "run.seed", "data.augment")
    assert not [key for key in free - watched if key.startswith(bound)]
    places = {key: option.place for key, option in found.items() if option.place}
    assert places["data.path"] == places["data.held_out_share"] == "data"
    assert places["init"] == "init"
    assert places["run.batch_size"] == "batch"
    assert "data.augment.flip" not in places


def compare(
    folder: Path, stored: dict[str, str], used: dict[str, str], **changes: Any
) -> dict[str, list[Any]]:
    """Check a run of 2 images an update against a checkpoint, with other options of `run`."""
    checkpoint = folder / "checkpoint"
    checkpoint.mkdir(exist_ok=True)
    (checkpoint / "config.yaml").write_text("run: {batch_size: 2}")
    run = RunConfig(**{"batch_size": 2, **changes})
    return check_resumed(checkpoint, TrainDVAE(run=run), stored, used)


def test_another_number_of_processes_needs_the_same_images_in_an_update(tmp_path: Path) -> None:
    """Two processes with 2 images each are as one with 4."""
    assert compare(tmp_path, {"batch": "4"}, {"batch": "4"}, batch_size=4) == {}
    with pytest.raises(UserError, match=r"an update had 4 images and now has 2 .*--change batch"):
        compare(tmp_path, {"batch": "4"}, {"batch": "2"})
    found = compare(tmp_path, {"batch": "4"}, {"batch": "2"}, changed=["batch"])
    assert found == {"batch": ["4", "2"]}
    with pytest.raises(UserError, match=r"run\.batch_size=2, not 3"):
        compare(tmp_path, {"batch": "2"}, {"batch": "3"}, batch_size=3)
    assert compare(tmp_path, {}, {"batch": "2"}) == {}  # a checkpoint of an earlier version


def test_what_a_run_is_fed_is_compared_by_content(tmp_path: Path) -> None:
    for what, words in (("text", "another|not the text encoding"), ("tokenizer", "tokenizer")):
        with pytest.raises(UserError, match=rf"({words}).*--change {what}"):
            compare(tmp_path, {what: "a"}, {what: "b"})
    assert compare(tmp_path, {"init": "a"}, {"init": "b"}) == {}  # read once, at the start
    with pytest.raises(UserError, match="--change runn: no such option"):
        compare(tmp_path, {}, {}, changed=["runn"])


def test_a_resumed_run_does_not_need_what_it_began_with(
    train: Callable[..., Any], tmp_path: Path
) -> None:
    train("run.updates=1")
    shutil.move(tmp_path / "run", tmp_path / "first")
    init = f"init={tmp_path / 'first/tokenizer'}"
    assert train("run.updates=1", init)[0] == 0
    shutil.rmtree(tmp_path / "first")
    status, printed, error = train("run.updates=2", init)
    assert status == 0, error
    assert "resumed" in printed


def test_a_run_that_is_done_says_so(train: Callable[..., Any], tmp_path: Path) -> None:
    train("run.updates=2")
    before = (tmp_path / "run/checkpoint/model.safetensors").read_bytes()
    status, printed, _ = train("run.updates=1")
    assert status == 0
    assert "already at 2 updates, run.updates is 1: nothing to train" in printed
    assert (tmp_path / "run/checkpoint/model.safetensors").read_bytes() == before


def test_a_checkpoint_that_a_kill_has_left_elsewhere_is_gone_on_from(
    train: Callable[..., Any], tmp_path: Path
) -> None:
    train("run.updates=2")
    folder = tmp_path / "run"
    for name in (".checkpoint.whole-4194999-abcdef01", ".checkpoint.old-4194999-abcdef02"):
        shutil.copytree(folder / "checkpoint", folder / name)
    shutil.rmtree(folder / "checkpoint")
    torn = folder / ".checkpoint.whole-4194999-abcdef01" / TRAINING
    torn.write_bytes(torn.read_bytes()[:-200])
    (folder / ".text.json.new-4194999-00aa00aa").touch()
    status, printed, error = train("run.updates=3")
    assert status == 0, error
    assert "recovered the previous checkpoint from .checkpoint.old-4194999-abcdef02" in printed
    assert "resumed" in printed
    assert step(folder) == 3
    assert not list(folder.glob(".*"))


def test_a_checkpoint_without_one_of_its_files_is_not_complete(
    train: Callable[..., Any], tmp_path: Path
) -> None:
    train("run.updates=1")
    folder = tmp_path / "run/checkpoint"
    for name in ("config.yaml", "model.safetensors", TRAINING):
        assert is_complete(folder), name
        content = (folder / name).read_bytes()
        if name != "config.yaml":
            (folder / name).write_bytes(content[: len(content) // 2])
            assert not is_complete(folder), name
        (folder / name).unlink()
        assert not is_complete(folder), name
        (folder / name).write_bytes(content)


def test_flipped_bits_in_a_checkpoint_are_refused(
    train: Callable[..., Any], tmp_path: Path
) -> None:
    train("run.updates=1")
    for name in ("model.safetensors", TRAINING):
        path = tmp_path / "run/checkpoint" / name
        whole = path.read_bytes()
        content = bytearray(whole)
        content[len(content) // 2] ^= 1
        path.write_bytes(content)
        status, _, error = train("run.updates=2")
        assert status == 2
        assert f"{name} is" in error
        assert error.count("\n") == 1
        path.write_bytes(whole)
    assert train("run.updates=2")[0] == 0


def test_only_whole_lines_up_to_the_checkpoint_stay_in_the_log(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    kept = [{"step": 1, "loss": 2.0}, {"step": 2, "changes": {"a": [1, 2]}}, {"step": 2}]
    torn = ['{"step": 2, "changes": {"b": [1, 2]}}', '{"step": 3}', '{"step": 1, "x": {"y": 1}']
    torn += ["\0\0\0}", "[]", '"}', '{"loss": 1}', '{"step": "x"}', "[" * 9999, "", "\udcff"]
    text = "\n".join([*map(json.dumps, kept), *torn])
    path.write_bytes(text.encode("utf-8", errors="surrogateescape"))
    trim_log(path, 2, [kept[1]])
    assert path.read_text() == "".join(f"{json.dumps(line)}\n" for line in kept)


def test_the_log_of_a_start_without_a_checkpoint_is_kept_apart(
    train: Callable[..., Any], tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    train("run.updates=2")
    shutil.rmtree(folder / "checkpoint")
    status, printed, _ = train("run.updates=1")
    assert status == 0
    assert "starts at 0; its log is now metrics.before.jsonl" in printed
    assert [line["step"] for line in lines(folder) if "loss" in line] == [1]
    assert (folder / "metrics.before.jsonl").exists()


def make_checkpoint(folder: Path, text: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "file").write_text(text)


def test_the_last_checkpoints_are_kept_and_gone_back_to(tmp_path: Path) -> None:
    checkpoint, said = tmp_path / "checkpoint", []
    for update in (5, 10, 15, 20):
        shutil.rmtree(checkpoint, ignore_errors=True)
        make_checkpoint(checkpoint, f"{update}")
        keep_checkpoint(checkpoint, update, 3)
    kept = sorted(path.name for path in (tmp_path / "checkpoints").iterdir())
    assert kept == ["0000010", "0000015", "0000020"]
    shutil.rmtree(checkpoint)
    shutil.rmtree(tmp_path / "checkpoints/0000020")
    restore_checkpoint(checkpoint, said.append)
    assert (checkpoint / "file").read_text() == "15"
    assert "goes on from" in said[0]
    keep_checkpoint(checkpoint, 25, 1)  # one is the usual: what is there stays
    assert len(list((tmp_path / "checkpoints").iterdir())) == 2


def test_a_run_keeps_as_many_checkpoints_as_it_is_told(
    train: Callable[..., Any], tmp_path: Path
) -> None:
    train("run.updates=3", "run.save_every=1", "run.keep_last=2")
    folder = tmp_path / "run"
    assert sorted(path.name for path in (folder / "checkpoints").iterdir()) == [
        "0000002",
        "0000003",
    ]
    whole = load_file(folder / "checkpoint/model.safetensors")
    for name in ("checkpoint", "checkpoints/0000003"):
        shutil.rmtree(folder / name)
    status, printed, error = train("run.updates=3")
    assert status == 0, error
    assert "0000002" in printed
    again = load_file(folder / "checkpoint/model.safetensors")
    assert all(torch.equal(whole[name], again[name]) for name in whole)


@pytest.mark.parametrize("name", ["SIGTERM", "SIGHUP"])
def test_signals_save(
    train: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    update = run_module.Trainer.update

    def signalled(self: Any, loss: torch.Tensor) -> float:
        if self.step == 1:
            signal.raise_signal(getattr(signal, name))
        return update(self, loss)

    monkeypatch.setattr(run_module.Trainer, "update", signalled)
    number = getattr(signal, name)
    before = signal.signal(number, signal.SIG_DFL)  # the tests themselves may run by nohup
    try:
        status, printed, _ = train("run.updates=5")
    finally:
        signal.signal(number, before)
    assert status == 130
    assert "saved at update 2; the same command resumes" in printed
    assert step(tmp_path / "run") == 2


def test_a_run_by_nohup_lives_on_when_the_terminal_is_closed(
    train: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    update = run_module.Trainer.update
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)

    def signalled(self: Any, loss: torch.Tensor) -> float:
        signal.raise_signal(signal.SIGHUP)
        return update(self, loss)

    monkeypatch.setattr(run_module.Trainer, "update", signalled)
    try:
        assert train("run.updates=2")[0] == 0
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


def test_an_optimiser_goes_on_under_the_settings_that_it_has_now() -> None:
    weights = nn.Parameter(torch.ones(2))
    first = torch.optim.AdamW([weights], lr=0.1, betas=(0.5, 0.6), weight_decay=0.3)
    weights.grad = torch.ones(2)
    first.step()
    second = torch.optim.AdamW([weights], lr=0.2, betas=(0.9, 0.99), weight_decay=0.4)
    load_optimiser(second, first.state_dict())
    (group,) = second.param_groups
    assert (group["lr"], group["betas"], group["weight_decay"]) == (0.2, (0.9, 0.99), 0.4)
    assert torch.equal(second.state[weights]["exp_avg"], first.state[weights]["exp_avg"])


def test_data_is_known_again_by_what_it_holds(image_folder: Path, tmp_path: Path) -> None:
    def found(folder: Path) -> str:
        return data_fingerprint(FolderSource(str(folder)))

    first = found(image_folder)
    moved = image_folder.rename(tmp_path / "moved")
    assert found(moved) == first
    changed = [first]
    table = (moved / "metadata.csv").read_text()
    (moved / "metadata.csv").write_text(table.replace("number 7", "number 77"))
    changed.append(found(moved))
    (moved / "metadata.csv").write_text(table)
    shutil.copy(moved / "00.png", moved / "07.png")
    changed.append(found(moved))
    (moved / "07.png").unlink()
    changed.append(found(moved))
    assert len(set(changed)) == 4


def test_a_place_inside_a_section_may_be_none() -> None:
    assert options(TrainDVAE())["data.augment.crop"].place == ""
    assert Place("data") == Place("data")
    assert "data.workers" in options(TrainDVAE(data=DataConfig()))


def test_text_json_of_a_start_that_was_cut_off_is_written_anew(
    tmp_path: Path, image_folder: Path
) -> None:
    """Without a checkpoint there is nothing that it must fit."""
    (tmp_path / "text.json").write_bytes(b"")
    run = Run(TrainDVAE(run=RunConfig(out=str(tmp_path))))
    run.text_tokenizer(FolderSource(str(image_folder)), 300, "")
    good = (tmp_path / "text.json").read_bytes()
    (tmp_path / "checkpoint").mkdir()
    (tmp_path / "text.json").write_bytes(good[:-9])
    with pytest.raises(UserError, match=r"text\.json: damaged"):
        run.text_tokenizer(FolderSource(str(image_folder)), 300, "")


def test_the_output_may_be_closed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A terminal that is gone, or a log on a full disk, ends no run."""

    class Closed:
        def write(self, _: str) -> int:
            raise OSError(28, "No space left on device")

        flush = write

    run = Run(TrainDVAE(run=RunConfig(out=str(tmp_path))))
    monkeypatch.setattr(sys, "stdout", Closed())
    run.write("a line")


def test_the_best_tokenizer_is_kept_where_asked(train: Callable[..., Any], tmp_path: Path) -> None:
    """A step size of 10 makes each update worse than the one before."""
    options = ["run.evaluate_every=1", "optimiser.ema_decay=0", "optimiser.schedule=constant"]
    train("run.updates=1", *options)
    first = (tmp_path / "run/tokenizer/model.safetensors").read_bytes()
    change = ["--change", "optimiser.lr=10"]
    _, printed, _ = train("run.updates=3", "keep=best", *options, *change)
    assert "best held-out PSNR" in printed
    assert (tmp_path / "run/tokenizer/model.safetensors").read_bytes() == first
    assert "the last weights" not in printed
    _, printed, _ = train("run.updates=4", "keep=last", *options, *change)
    assert "run/tokenizer: the last weights (best held-out PSNR" in printed
    assert (tmp_path / "run/tokenizer/model.safetensors").read_bytes() != first
    status, _, error = train("run.updates=4", "keep=first")
    assert status == 2
    assert "keep is 'first'; use one of best, last" in error
