"""Several processes: they train as one, share a model out, and stop and end together."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from accelerate import Accelerator
from builders import build, inputs
from rankers import TINY as TINY_CLIP
from rankers import log_lines
from safetensors.torch import load_file
from torch import distributed

import train_clip
import train_dalle
import train_dvae
from dalle.loss import text_tokens_of
from dalle.transformer import Transformer
from dalle_base.common.checkpoint import read_training_state, read_weights
from dalle_base.common.config import load_config
from dalle_base.common.errors import UserError
from dalle_base.common.planning import take_plan
from dalle_base.data.text import PADDING
from dalle_base.training import launch, launched, processes, stopping, watchdog
from dalle_base.training.config import OptimiserConfig
from dalle_base.training.sharding import check_shardable
from dalle_base.training.trainer import Trainer

ROOT = Path(__file__).parents[1]
DVAE = [
    *("model.image_size=16", "model.grid=4", "model.codebook_size=12", "model.network.width=8"),
    *("model.network.groups=2", "model.network.blocks=1", "model.network.decoder_init=8"),
    *("model.network.stem_stride=2", "model.network.norm=group", "optimiser.lr=0.003"),
    *("model.objective.entropy_weight=0.1", "model.objective.logit_scale=8", "run.log_every=1"),
    "data.held_out_share=0.3",
]
DALLE = [
    *("model.rows=4", "model.columns=4", "model.image_vocab=12", "model.text_vocab=300"),
    *("model.text_length=24", "model.d_model=16", "model.heads=2", "model.head_width=8"),
    *("model.depth=3", "model.pattern_options={conv: {kernel: 3}}", "optimiser.lr=0.003"),
    *("optimiser.clip=0.1", "data.held_out_share=0.3", "run.log_every=1"),
]
EPS = 1e-3
"""AdamW's: below it a gradient of nothing but rounding, as that of a key's bias, makes no step."""
SCRIPTS = {"train_dvae": train_dvae, "train_dalle": train_dalle, "train_clip": train_clip}
Script = Callable[..., tuple[int, str, str]]


def assert_close(first: Path, second: Path) -> None:
    """Two runs agree in what they logged and in their averages, to float tolerance."""
    for one, other in zip(log_lines(first), log_lines(second), strict=True):
        assert one == pytest.approx(other, rel=1e-4, abs=1e-5)
    one, other = (load_file(folder / "checkpoint/model.safetensors") for folder in (first, second))
    torch.testing.assert_close(one, other, rtol=1e-3, atol=2e-5)


@pytest.mark.slow
def test_two_processes_train_as_one(
    run_script: Script,
    run_in_two_processes: Callable[..., None],
    image_folder: Path,
    tmp_path: Path,
) -> None:
    """Each script, in batches half as large; captions differ in length, Gumbel noise is drawn."""
    common = [f"data.path={image_folder}", "run.updates=4", "run.evaluate_every=2"]
    common.append(f"optimiser.eps={EPS}")
    tokenizer = f"tokenizer={tmp_path / 'train_dvae-1/tokenizer'}"
    for name, own in (
        ("train_dvae", DVAE),
        ("train_dalle", [*DALLE, tokenizer]),
        ("train_clip", TINY_CLIP),
    ):
        one, two = (tmp_path / f"{name}-{count}" for count in (1, 2))
        arguments = [*own, *common]
        batches = "run.batch_size=4", "run.batch_size=2"
        status, _, error = run_script(SCRIPTS[name].main, *arguments, batches[0], f"run.out={one}")
        assert status == 0, error
        run_in_two_processes(f"{name}.py", *arguments, batches[1], f"run.out={two}")
        assert_close(one, two)


@pytest.mark.slow
def test_a_sharded_run_has_plain_checkpoints(
    run_script: Script,
    run_in_two_processes: Callable[..., None],
    image_folder: Path,
    tmp_path: Path,
) -> None:
    """It goes on from what two whole models saved, and one process goes on from what it saves."""
    common = [f"data.path={image_folder}", "run.evaluate_every=2", f"optimiser.eps={EPS}"]
    out = f"run.out={tmp_path / 'dvae'}"
    assert run_script(train_dvae.main, *DVAE, *common, "run.updates=1", out)[0] == 0
    arguments = [*DALLE, *common, f"tokenizer={tmp_path / 'dvae/tokenizer'}"]
    reference = [*arguments, "run.batch_size=4", f"run.out={tmp_path / 'one'}"]
    assert run_script(train_dalle.main, *reference, "run.updates=4")[0] == 0
    sharded = [*arguments, "run.batch_size=2", f"run.out={tmp_path / 'sharded'}"]
    run_in_two_processes("train_dalle.py", *sharded, "run.updates=2")
    run_in_two_processes("train_dalle.py", *sharded, "run.updates=4", "run.shard=true")
    assert_close(tmp_path / "one", tmp_path / "sharded")

    config = load_config(train_dalle.TrainDALLE, "", reference)
    transformer = Transformer(config.model)
    trainer = Trainer(transformer, config.optimiser, Accelerator(cpu=True))
    checkpoint = tmp_path / "sharded/checkpoint"
    trainer.load_state_dict(read_training_state(checkpoint)["trainer"], read_weights(checkpoint))
    expected = read_training_state(tmp_path / "one/checkpoint")["trainer"]
    torch.testing.assert_close(trainer.state_dict(), expected, rtol=1e-3, atol=2e-5)


@pytest.mark.slow
def test_a_killed_process_ends_the_other_with_one_line(image_folder: Path, tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    options = ["run.updates=1000000", "run.batch_size=2", f"run.out={tmp_path / 'run'}"]
    command = [sys.executable, "train_dvae.py", *DVAE, f"data.path={image_folder}", *options]
    where = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    started = [
        subprocess.Popen(
            command,
            cwd=ROOT,
            env=os.environ | where | {"RANK": str(rank), "LOCAL_RANK": str(rank)},
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    try:
        deadline = time.monotonic() + 240
        while not (tmp_path / "run/metrics.jsonl").exists() and time.monotonic() < deadline:
            assert all(process.poll() is None for process in started)
            time.sleep(0.1)
        started[1].kill()
        error = started[0].communicate(timeout=240)[1]
    finally:
        for process in started:
            process.kill()
            process.communicate()
    assert started[0].returncode == 2, error
    assert "Traceback" not in error
    lines = [line for line in error.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1
    assert "another process of the run has ended" in lines[0]


def test_parts_of_a_batch_make_the_step_of_all_of_it() -> None:
    """Also where the parts have different numbers of text tokens."""
    states = []
    for accumulate in (1, 3):
        model = build()
        tokens, codes = inputs(model, batch=6)
        tokens[0, 1:], tokens[3], tokens[5, 2:] = PADDING, PADDING, PADDING
        config = OptimiserConfig(lr=0.01, clip=0.5, schedule="constant", eps=EPS)
        trainer = Trainer(model, config, Accelerator(cpu=True), accumulate=accumulate)
        text_tokens = text_tokens_of(tokens, accumulate)
        losses = []
        for part in trainer.micro_batches(tokens, codes):
            assert trainer.step == 0
            losses.append(trainer.update(trainer.model(*part, text_tokens).total))
        assert trainer.step == 1
        assert not trainer.midway
        states.append((trainer.state_dict()["model"], sum(losses) / accumulate))
    assert states[1][1] == pytest.approx(states[0][1], rel=1e-5)
    torch.testing.assert_close(states[1][0], states[0][0], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("script", "arguments", "says"),
    [
        (train_clip, [], "chunk_images encodes"),
        (train_dvae, ["model.objective.entropy_weight=0.1"], "entropy_weight=0"),
        (train_dvae, ["tokenizer=vqgan", "model.quantiser=ema"], "model.quantiser=fsq or gumbel"),
        (
            train_dvae,
            ["tokenizer=vqgan", "model.quantiser=fsq", "model.objective.adversarial.weight=1"],
            "adversarial.weight=0",
        ),
    ],
)
def test_losses_that_do_not_add_up_are_not_accumulated(run_script, script, arguments, says) -> None:
    status, _, error = run_script(script.main, *arguments, "run.accumulate=2")
    assert status == 2
    assert says in error
    assert len(error.splitlines()) == 1


def test_what_cannot_be_sharded_is_refused(
    run_script: Script, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match="muon steps whole matrices"):
        check_shardable("muon", "no")
    with pytest.raises(UserError, match="use bf16"):
        check_shardable("adamw", "fp16")
    out = tmp_path / "run"
    status, _, error = run_script(train_clip.main, "run.shard=true", f"run.out={out}")
    assert (status, out.exists()) == (2, False)
    assert "only train_dalle.py" in error
    monkeypatch.setenv(launch.FSDP, "true")
    assert "only train_dalle.py" in run_script(train_clip.main, f"run.out={out}")[2]


@pytest.mark.parametrize(
    ("environment", "says"),
    [
        ({"WORLD_SIZE": "two"}, "WORLD_SIZE is 'two'"),
        ({"WORLD_SIZE": "0"}, "WORLD_SIZE is '0'"),
        ({"WORLD_SIZE": "2"}, "RANK is not one of 2"),
        ({"WORLD_SIZE": "2", "RANK": "2"}, "RANK is not one of 2"),
    ],
)
def test_half_told_processes_are_refused(monkeypatch, environment, says) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(UserError, match=says):
        launched.launched_processes()


def test_processes_that_would_train_alone_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """srun starts several, of which accelerate knows nothing."""
    monkeypatch.setenv(launched.STEP_COUNT, "3")
    monkeypatch.setattr(launch, "Accelerator", lambda **_: Accelerator(cpu=True))
    with pytest.raises(UserError, match="3 processes were started, but each would train alone"):
        launch.connect("no")
    monkeypatch.setenv("WORLD_SIZE", "1")  # torchrun speaks, whatever srun started
    assert launched.launched_processes() == 1


@pytest.mark.parametrize("several", [False, True])
def test_a_second_signal_waits_only_with_others(monkeypatch, several: bool) -> None:
    """Launchers send a signal again that the terminal has sent to all."""
    monkeypatch.setattr(processes, "several", lambda: several)
    taken = []
    before = signal.signal(signal.SIGTERM, lambda *_: taken.append("before"))
    try:
        signals = stopping.StopSignals()
        signals.listen()
        assert not signals.asked
        signal.raise_signal(signal.SIGTERM)
        assert signals.asked
        assert taken == []
        signal.raise_signal(signal.SIGTERM)
        assert taken == ([] if several else ["before"])
        monkeypatch.setattr(stopping, "IMPATIENCE", -1.0)
        signal.raise_signal(signal.SIGTERM)
        assert len(taken) == (1 if several else 2)
        signals.stopping = True
        signals.listen()
        signal.raise_signal(signal.SIGTERM)
        assert len(taken) == (1 if several else 2)
    finally:
        monkeypatch.setattr(processes, "several", lambda: False)
        signals._several = False
        signals.restore()
        signal.signal(signal.SIGTERM, before)
        signal.signal(signal.SIGINT, signal.default_int_handler)


def test_a_run_under_nohup_outlives_its_terminal() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        signals = stopping.StopSignals()
        signals.listen()
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
        signals.restore()
    finally:
        signal.signal(signal.SIGHUP, before)


def test_the_watchdog_misses_who_has_ended_or_is_silent(monkeypatch: pytest.MonkeyPatch) -> None:
    store = distributed.HashStore()  # type: ignore[reportPrivateImportUsage]
    neighbour = watchdog._Neighbour(1)
    assert not neighbour.lost(store)
    ended = subprocess.Popen([sys.executable, "-c", ""])
    os.waitid(os.P_PID, ended.pid, os.WEXITED | os.WNOWAIT)  # ended, but nobody has asked
    for place, lost in (
        (f"elsewhere {ended.pid}", False),
        (f"{watchdog._machine()} {os.getpid()}", False),
        (f"{watchdog._machine()} {ended.pid}", True),
    ):
        store.set("place 1", place)
        assert watchdog._Neighbour(1).lost(store) == lost
    ended.wait()
    now = [0.0]
    monkeypatch.setattr(watchdog.time, "monotonic", lambda: now[0])
    store.set("place 1", "elsewhere 1")
    neighbour = watchdog._Neighbour(1)
    lost = []
    for beat, now[0] in (("1", 5.0), ("1", watchdog.SILENCE), ("1", 2000.0), ("2", 3000.0)):
        store.set("beat 1", beat)
        lost.append(neighbour.lost(store))
    assert lost == [False, False, True, False]


def test_a_plan_is_asked_for_with_or_without_a_config() -> None:
    assert take_plan(["a=1"]) == (0, ["a=1"])
    assert take_plan(["--plan", "a=1"]) == (8, ["a=1"])
    assert take_plan(["--plan=3", "x.yaml", "a=b.yaml"]) == (3, ["--config", "x.yaml", "a=b.yaml"])
    with pytest.raises(UserError, match="write a number of devices"):
        take_plan(["--plan=many"])
