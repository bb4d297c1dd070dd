"""What a trainer does with updates that went wrong, what a run says of itself and what it logs."""

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from rankers import log_lines
from torch import Tensor, nn

from dalle_base.common.checkpoint import read_training_state
from dalle_base.common.errors import UserError
from dalle_base.common.schema import validate_all
from dalle_base.training.config import OptimiserConfig
from dalle_base.training.meter import MACHINE, Meter
from dalle_base.training.run import Run
from dalle_base.training.trainer import Trainer
from dalle_base.training.watch import SCALED_SKIPS, YOUNG, DivergedError, Watch
from train_dvae import TrainDVAE

NAN, INF = math.nan, math.inf


class Counted(nn.Module):
    """A layer that counts its inputs' means in a buffer, as a tokenizer may its codes' use."""

    seen: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor([0.5, -1.0]))
        self.head = nn.Parameter(torch.tensor([2.0]))
        self.register_buffer("seen", torch.zeros(()))
        self.register_buffer("count", torch.zeros((), dtype=torch.long))

    def forward(self, x: Tensor) -> Tensor:
        self.seen += x.detach().mean()
        self.count += 1
        return (self.weight * x).sum() * self.head.squeeze()


def trainer(**options: object) -> Trainer[Counted]:
    config = OptimiserConfig(**({"lr": 0.1, "schedule": "constant"} | options))  # type: ignore[arg-type]
    validate_all(config, "optimiser")
    return Trainer(Counted(), config, Accelerator(cpu=True))


def update(trained: Trainer[Counted], scale: float = 1.0) -> float:
    return trained.update(trained.model(torch.tensor([1.0, 2.0]) * scale) * scale)


def weights(trained: Trainer[Counted]) -> list[Tensor]:
    return [value.clone() for value in trained.model.state_dict().values()]


def equal(one: list[Tensor], other: list[Tensor]) -> bool:
    return all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


@pytest.mark.parametrize("clip", [0.0, 1.0])
def test_what_is_not_finite_stops_a_run_as_it_was_before(clip: float) -> None:
    """Also its buffers, which the forward pass wrote to."""
    trained = trainer(clip=clip)
    update(trained)
    before, state = weights(trained), trained.optimiser.state_dict()["state"][0]["exp_avg"].clone()
    with pytest.raises(DivergedError, match="the loss is nan at update 1"):
        update(trained, NAN)
    assert equal(before, weights(trained))
    assert torch.equal(state, trained.optimiser.state_dict()["state"][0]["exp_avg"])
    assert trained.step == 1
    assert trained.model.weight.grad is None  # type: ignore[union-attr]


@pytest.mark.parametrize("clip", [0.0, 1.0])
def test_a_gradient_that_is_not_finite_is_noticed_under_a_finite_loss(clip: float) -> None:
    trained = trainer(clip=clip)
    before = weights(trained)
    loss = trained.model(torch.zeros(2)) + (trained.model.head * 0).sqrt().sum()  # type: ignore[operator]
    with pytest.raises(DivergedError, match=r"the gradient norm is (nan|inf) at update 0"):
        trained.update(loss)
    assert equal(before, weights(trained))


def test_skipping_leaves_an_update_out_and_is_bounded(capsys: pytest.CaptureFixture[str]) -> None:
    trained, straight = (trainer(non_finite="skip", most_skips=2) for _ in range(2))
    for scale in (1.0, NAN, 0.5, INF, NAN, 0.25):
        update(trained, scale)
        assert trained.skipped == (not math.isfinite(scale))
    for scale in (1.0, 0.5, 0.25):
        update(straight, scale)
    assert equal(weights(trained), weights(straight))
    assert trained.step == 6
    said = capsys.readouterr().out.splitlines()
    assert said[0] == "update 1: the loss is nan; skipped, 1 in a row, 1 in all"
    assert said[2].endswith("skipped, 2 in a row, 3 in all")
    assert len(said) == 3
    before = weights(trained)
    update(trained, NAN)
    update(trained, NAN)
    with pytest.raises(DivergedError, match="and the 2 before it were skipped already"):
        update(trained, NAN)
    assert equal(before, weights(trained))


def judged(watch: Watch, losses: list[float], norm: float = 1.0) -> list[bool]:
    return [watch.judge(loss, norm, step)[0] for step, loss in enumerate(losses)]


WAVES = [5 - 0.001 * step + 0.1 * math.sin(step) for step in range(200)]


@pytest.mark.parametrize("level", [0.0, -20.0])
def test_a_spike_is_told_from_the_losses_usual_noise(level: float) -> None:
    """Whatever the loss's level: some losses are negative."""
    losses = [level + loss for loss in WAVES]
    config = OptimiserConfig(spike=8, on_spike="skip")
    assert all(judged(Watch(config), losses))
    losses[150] += 3
    watch = Watch(config)
    assert [number for number, taken in enumerate(judged(watch, losses)) if not taken] == [150]
    assert watch.spikes == 1
    losses[150] -= 6  # a fall is none
    assert all(judged(Watch(config), losses))
    early = list(losses)
    early[YOUNG // 2] += 3  # nor is a rise when little is known
    assert all(judged(Watch(config), early))


def test_what_becomes_of_a_spike_is_an_option() -> None:
    said = Watch(OptimiserConfig(spike=8))
    judged(said, WAVES)
    taken, line = said.judge(9.0, 1.0, 200)
    assert taken
    assert line.startswith("update 200: the loss is 9, usually 4.8")
    stops = Watch(OptimiserConfig(spike=8, on_spike="stop"))
    judged(stops, WAVES)
    with pytest.raises(DivergedError, match=r"at update 200: optimiser.on_spike=say or skip"):
        stops.judge(9.0, 1.0, 200)
    off = Watch(OptimiserConfig())
    judged(off, WAVES)
    assert off.judge(1e9, 1.0, 200) == (True, "")


def test_a_loss_that_stays_high_is_no_spike_for_ever() -> None:
    """With `say` a run gets used to a new level; with `skip` it ends."""
    said = Watch(OptimiserConfig(spike=8))
    judged(said, WAVES)
    assert all(judged(said, [9.0] * 400))
    assert said.judge(9.0, 1.0, 600) == (True, "")
    skips = Watch(OptimiserConfig(spike=8, on_spike="skip", most_skips=5))
    judged(skips, WAVES)
    with pytest.raises(DivergedError, match="the 5 before it"):
        judged(skips, [9.0] * 6)


def test_gradients_beyond_a_scale_are_skipped_in_silence_and_within_bounds() -> None:
    watch = Watch(OptimiserConfig())
    assert watch.judge(1.0, INF, 0, scaled=True) == (False, "")
    with pytest.raises(DivergedError, match="loss is nan"):
        watch.judge(NAN, NAN, 0, scaled=True)
    for step in range(SCALED_SKIPS - 1):
        watch.judge(1.0, INF, step, scaled=True)
    with pytest.raises(DivergedError, match="whatever its scale"):
        watch.judge(1.0, INF, 60, scaled=True)


def test_a_loss_scale_falls_and_is_resumed() -> None:
    """float16's scaler, here on a CPU: what overflows is skipped, the scale halves."""
    trained = trainer()
    trained.accelerator.scaler = torch.amp.GradScaler("cpu", init_scale=2.0**127)
    update(trained, 100.0)
    assert trained.skipped
    scales = [trained.accelerator.scaler.get_scale()]
    while trained.skipped:
        update(trained, 100.0)
        scales.append(trained.accelerator.scaler.get_scale())
    assert scales[0] == 2.0**126
    assert scales[-2] == scales[-1] < 2.0**126  # taken: the scale is as before
    plain = trainer()
    update(plain, 100.0)
    assert equal(weights(plain), weights(trained))
    state = trained.state_dict()
    other = trainer()
    other.accelerator.scaler = torch.amp.GradScaler("cpu")
    other.load_state_dict(state, trained.average.state_dict())
    assert other.accelerator.scaler.get_scale() == scales[-1]


def test_the_watch_is_resumed(tmp_path: Path) -> None:
    options = {"non_finite": "skip", "spike": 3.0, "on_spike": "skip", "most_skips": 3}
    whole, parts = trainer(**options), trainer(**options)
    for scale in (1.0, 0.5, NAN, NAN):
        for trained in (whole, parts):
            update(trained, scale)
    torch.save(parts.state_dict(), tmp_path / "state.pt")
    resumed = trainer(**options)
    state = torch.load(tmp_path / "state.pt", weights_only=True)
    resumed.load_state_dict(state, parts.average.state_dict())
    assert resumed.watch.state_dict() == whole.watch.state_dict()
    for trained in (whole, resumed):
        update(trained, NAN)
        with pytest.raises(DivergedError):
            update(trained, NAN)
    del state["watch"]  # as earlier versions wrote it
    trainer().load_state_dict({**state, "parts": {}}, parts.average.state_dict())


def test_the_gradients_norm_is_known_with_clipping_and_without() -> None:
    for clip in (0.0, 1e-3):
        trained = trainer(clip=clip)
        update(trained)
        # of (0.5 * 1 - 1 * 2) * 2: 2, 4 and -1.5
        assert trained.figures["gradient_norm"] == pytest.approx(math.sqrt(4 + 16 + 2.25))
        assert trained.figures["lr"] == 0.1


def test_buffers_are_copied_or_averaged() -> None:
    copied, averaged = (trainer(ema_buffers=way, ema_decay=0.5) for way in ("copy", "average"))
    for trained in (copied, averaged):
        update(trained)
        update(trained)
        assert trained.model.seen == 3.0
        assert trained.average.count == 2
    assert copied.average.seen == 3.0
    first = 1.5 * (1 - 2 / 11)
    assert averaged.average.seen.item() == pytest.approx(3 + 3 / 12 * (first - 3))


def test_parts_of_a_model_have_optimisers_of_their_own() -> None:
    parts = {"head": {"lr": 1e-3, "clip": 1e-2, "schedule": "cosine", "decay_updates": 4}}
    both, alone = trainer(parts=parts, eps=1.0), trainer(eps=1.0)
    assert [len(part.parameters) for part in both.parts.values()] == [1, 1]
    before = both.model.head.clone()  # type: ignore[operator]
    for trained in (both, alone):
        update(trained)
    assert torch.equal(both.model.weight, alone.model.weight)  # type: ignore[arg-type]
    assert 0 < (both.model.head - before).abs().item() < 2e-5  # type: ignore[operator]
    assert both.figures["gradient_norm"] == pytest.approx(alone.figures["gradient_norm"])
    assert both.parts["head"].lr(2) < 1e-3
    assert both.lr == 0.1


def test_parts_resume_exactly() -> None:
    parts = {"head": {"lr": 1e-2, "schedule": "plateau", "plateau_patience": 1}}
    whole, first, resumed = (trainer(parts=parts) for _ in range(3))
    for scale in (1.0, 0.5, 0.7):
        update(whole, scale)
        if first.step < 2:
            update(first, scale)
    resumed.load_state_dict(first.state_dict(), first.average.state_dict())
    update(resumed, 0.7)
    assert equal(weights(whole), weights(resumed))
    assert whole.parts["head"].lr(3) == resumed.parts["head"].lr(3) < 1e-2


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"parts": {"haed": {"lr": 1.0}}}, "'haed'; the model has weight, head"),
        (
            {"parts": {"head": {"lr": -1.0}}},
            "optimiser.parts.head: lr is -1.0: write a number",
        ),
        ({"parts": {"head": {"rl": 1.0}}}, "unknown key rl; did you mean lr"),
        ({"parts": {"head": {"ema_decay": 0.5}}}, "optimiser.parts.head.ema_decay: the whole"),
        ({"parts": {"head": 3}}, "optimiser.parts.head is 3: write a mapping"),
        ({"parts": {"head": {}, "weight": {}}}, "leave no parameter"),
        ({"non_finite": "ignore"}, "optimiser.non_finite is 'ignore'; use one of stop, skip"),
        ({"on_spike": "cry"}, "optimiser.on_spike is 'cry'"),
        ({"ema_buffers": "drop"}, "optimiser.ema_buffers is 'drop'"),
        ({"spike": -1.0}, "optimiser.spike"),
        ({"spike": NAN}, "optimiser.spike"),
        ({"most_skips": -1}, "optimiser.most_skips"),
        ({"power_sgd": -1}, "optimiser.power_sgd"),
        ({"power_sgd": 2}, "power_sgd=2 compresses .* this is 1 process"),
    ],
)
def test_impossible_options_are_one_line(options: dict[str, Any], named: str) -> None:
    with pytest.raises(UserError, match=named):
        trainer(**options)


def test_float16_on_a_cpu_is_refused(tmp_path: Path) -> None:
    config = TrainDVAE()
    config.run.out, config.run.mixed_precision = str(tmp_path), "fp16"
    with pytest.raises(UserError, match=r"mixed_precision=fp16: no effect on a CPU.* bf16 or no"):
        Run(config)


def test_a_run_says_what_it_is_and_logs_all_from_its_first_update(
    train_ranker: Callable[..., Any], tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    status, printed, error = train_ranker("run", "run.updates=6", "run.log_every=5")
    assert status == 0, error
    lines = printed.splitlines()
    at = next(number for number, line in enumerate(lines) if line.startswith("device"))
    rows = dict(line.split(None, 1) for line in lines[at : at + 6])
    assert rows["device"].startswith("cpu (")
    assert rows["device"].endswith("1 process")
    assert rows["precision"] == "float32"
    assert rows["model"].endswith(" parameters")
    assert rows["data"] == "10 training and 2 held-out images"
    assert rows["updates"] == "0 of 6 done, 4 images in an update"
    assert rows["folder"] == str(folder)
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    trained = [line for line in lines if "loss" in line]
    assert [line["step"] for line in trained] == [1, 5, 6]
    for line in trained:
        assert {"lr", "gradient_norm", *MACHINE} - set(line) == {"tokens_per_s"}
        assert line["gradient_norm"] > 0
        assert line["memory_gb"] > 0.01
    assert trained[-1]["minutes_left"] == 0
    # The bar: at most four figures.
    last = [part for part in error.split("\r") if "loss=" in part][-1]
    assert last.count("=") == 4
    assert "images_per_s=" in last
    assert "lr=" in last


def test_a_run_that_diverges_loses_nothing_and_goes_on_with_another_option(
    train_ranker: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    updates = Trainer.update

    def spoilt(self: Trainer, loss: Tensor) -> float:
        return updates(self, loss * NAN if self.step == 3 else loss)

    monkeypatch.setattr(Trainer, "update", spoilt)
    status, printed, error = train_ranker("run", "run.updates=6")
    assert status == 2
    assert error.splitlines()[-1].startswith("error: the loss is nan at update 3")
    assert "saved" in printed
    assert read_training_state(tmp_path / "run/checkpoint")["trainer"]["step"] == 3
    status, printed, error = train_ranker("run", "run.updates=6", "optimiser.non_finite=skip")
    assert status == 0, error
    assert "update 3: the loss is nan; skipped" in printed
    lines = [line for line in log_lines(tmp_path / "run") if "lr" in line]
    assert [line["step"] for line in lines] == [1, 2, 3, 4, 5, 6]
    assert [line.get("skipped") for line in lines[3:]] == [1.0, 0.0, 0.0]
    assert "loss" not in lines[3]


def test_a_meter_leaves_out_what_lies_between_updates(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr("dalle_base.training.meter.time.monotonic", lambda: now[0])
    meter = Meter(torch.device("cpu"), images=8, tokens=10)
    for _ in range(3):
        now[0] += 10  # measuring
        meter.begin()
        now[0] += 2
        meter.end()
    figures = meter.figures(left=10)
    assert figures["seconds_per_update"] == 2
    assert (figures["images_per_s"], figures["tokens_per_s"]) == (4, 40)
    assert figures["minutes_left"] == pytest.approx(10 * 12 / 60)
    assert meter.figures(left=10) == {}
    meter.begin()
    meter.end()
    assert meter.figures(left=10**6, minutes=2)["minutes_left"] == pytest.approx(2 - 36 / 60)
