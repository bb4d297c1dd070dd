"""Schedules, the optimiser's settings and the average of the parameters."""

import platform
import subprocess
import sys

import pytest
import torch
from accelerate import Accelerator
from torch import nn

from training.schedules import Plateau, cosine, warmup
from training.trainer import OptimiserConfig, Trainer


def test_cosine_and_warmup() -> None:
    assert cosine(0, 100, 2.0, 1.0) == 2
    assert cosine(50, 100, 2.0, 1.0) == pytest.approx(1.5)
    assert cosine(25, 100, 2.0, 1.0) == pytest.approx(1 + 0.5 * (1 + 2**-0.5))
    assert cosine(100, 100, 2.0, 1.0) == cosine(10**6, 100, 2.0, 1.0) == 1
    assert cosine(0, 0, 2.0, 1.0) == 1
    assert [warmup(step, 4) for step in range(6)] == [0.25, 0.5, 0.75, 1, 1, 1]
    assert warmup(0, 0) == 1


def test_plateau_halves_where_the_loss_stops_falling_and_no_more_often_than_asked() -> None:
    plateau = Plateau(patience=2, threshold=0.01, halvings=2)
    factors = []
    for loss in (5, 5, 4, 4, 3, 3, 2.99, 2.99, 2, 2, 2, 2, 2, 2, 2, 2):
        plateau.update(loss)
        factors.append(plateau.factor)
    assert factors == [1] * 7 + [0.5] * 4 + [0.25] * 5
    other = Plateau(2, 0.01, 2)
    other.load_state_dict(plateau.state_dict())
    assert other.factor == 0.25


def trainer(**options: object) -> Trainer[nn.Linear]:
    torch.manual_seed(0)
    config = OptimiserConfig(**options)  # type: ignore[arg-type]
    return Trainer(nn.Linear(2, 1, bias=False), config, Accelerator(cpu=True))


def step(trained: Trainer[nn.Linear], gradient: float = 1.0) -> None:
    trained.update((trained.model.weight * gradient).sum())  # type: ignore[operator]


def test_the_step_size_follows_warmup_and_schedule() -> None:
    trained = trainer(lr=1.0, final_lr=0.5, decay_updates=10, warmup_updates=2)
    seen = []
    for _ in range(12):
        seen.append(trained.lr)
        step(trained)
    assert seen[0] == pytest.approx(0.5)
    assert seen[5] == pytest.approx(0.75)
    assert seen[11] == 0.5


def test_the_average_lags_behind_and_only_every_few_updates() -> None:
    trained = trainer(lr=0.1, schedule="constant", ema_decay=0.5, ema_every=2, weight_decay=0)
    start = trained.average.weight.clone()
    step(trained)
    assert torch.equal(trained.average.weight, start)
    step(trained)
    decay = min(0.5, 2 / 11)
    expected = start * decay + trained.model.weight * (1 - decay)  # type: ignore[operator]
    assert torch.allclose(trained.average.weight, expected)


def test_clipping_bounds_the_global_norm() -> None:
    plain, clipped = (trainer(eps=1.0, lr=1.0, clip=clip, weight_decay=0) for clip in (0.0, 1e-3))
    before = plain.model.weight.clone()  # type: ignore[operator]
    for trained in (plain, clipped):
        step(trained, gradient=100.0)
    assert (before - plain.model.weight).abs().max() > 0.9  # type: ignore[operator]
    assert (before - clipped.model.weight).abs().max() < 2e-3  # type: ignore[operator]


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="an option of glibc")
@pytest.mark.parametrize("keep", [False, True])
def test_freed_memory_stays_with_the_process_where_asked(keep):
    code = f"""if True:
        from pathlib import Path
        import torch
        from training.memory import keep_freed_memory

        def held():
            return int(Path("/proc/self/status").read_text().split("VmRSS:")[1].split()[0]) * 1024

        assert not {keep} or keep_freed_memory()
        torch.ones(1)
        before = held()
        big = torch.ones(50_000_000)
        del big
        print(held() - before)
    """
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert (int(done.stdout) > 150_000_000) == keep
