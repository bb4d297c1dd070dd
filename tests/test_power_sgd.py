"""Gradients compressed between two processes: fewer bytes, the same model in both, exact resume."""

import os
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from rankers import TINY, log_lines
from safetensors.torch import load_file
from torch import Tensor, distributed, nn

from dalle_base.training.config import OptimiserConfig
from dalle_base.training.launch import hang_up
from dalle_base.training.trainer import Trainer

START, UPDATES = 3, 9
SHAPES = ((60, 40), (40, 60), (60, 30))


class Counter:
    """Counts the bytes that are handed to torch to be added up over the processes."""

    def __init__(self) -> None:
        self.bytes, self._all_reduce = 0, distributed.all_reduce

    def __call__(self, tensor: Tensor, *arguments: Any, **options: Any) -> Any:
        self.bytes += tensor.numel() * tensor.itemsize
        return self._all_reduce(tensor, *arguments, **options)


def make(rank: int) -> Trainer[nn.Sequential]:
    torch.manual_seed(0)
    # Two of one shape, with another between them: torch's hook goes by shape.
    first, *others = nn.Linear(40, 60), *(nn.Linear(*s, bias=False) for s in SHAPES)
    model = nn.Sequential(first, nn.Tanh(), *others)
    config = OptimiserConfig(
        lr=0.01, schedule="constant", power_sgd=rank, power_sgd_start=START, non_finite="skip"
    )
    return Trainer(model, config, Accelerator(cpu=True))


def train(trained: Trainer[nn.Sequential], updates: int, spoil: int = -1) -> float:
    """Train so many updates on batches of each process; return the last loss, a mean over both."""
    loss = 0.0
    target = torch.linspace(-1, 1, 1200).view(40, 30)
    for _ in range(updates):
        process = distributed.get_rank()
        generator = torch.Generator().manual_seed(2 * trained.step + process)
        x = torch.randn(16, 40, generator=generator)
        error = (trained.model(x) - x @ target).square().mean()
        spoilt = trained.step == spoil and process == 1
        loss = trained.update(error * float("nan") if spoilt else error)
    return loss


def vector(trained: Trainer[nn.Sequential]) -> Tensor:
    return torch.cat([p.detach().flatten() for p in trained.model.parameters()])


def in_each_process(rank: int, folder: Path, port: int) -> None:
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2"}
    os.environ |= {"MASTER_ADDR": "localhost", "MASTER_PORT": str(port)}
    os.environ |= {"ACCELERATE_USE_CPU": "true"}
    torch.set_num_threads(1)
    found: dict[str, Any] = {}
    counter = distributed.all_reduce = Counter()  # type: ignore[assignment]
    for name, compression in (("plain", 0), ("whole", 2)):
        trained = make(compression)
        train(trained, START + 2)  # the hook's buckets are as they will stay
        before = counter.bytes
        train(trained, 1)
        found[f"{name} bytes"] = counter.bytes - before
        found[f"{name} loss"] = train(trained, UPDATES - trained.step)
        found[name] = vector(trained)
    for stopped in (START, START + 3):
        first, resumed = make(2), make(2)
        train(first, stopped)
        state = first.state_dict()  # of all processes
        if rank == 0:
            torch.save(state, folder / "state.pt")
        distributed.barrier()
        state = torch.load(folder / "state.pt", weights_only=True)
        resumed.load_state_dict(state, first.average.state_dict())
        train(resumed, UPDATES - stopped)
        found[f"resumed at {stopped}"] = vector(resumed)
        distributed.barrier()
    skipping = make(2)
    train(skipping, UPDATES, spoil=START + 2)
    found["skipped"], found["after a skip"] = skipping.watch.skipped, vector(skipping)
    torch.save(found, folder / f"{rank}.pt")
    distributed.barrier()
    hang_up()


@pytest.mark.slow
def test_two_processes_exchange_less_and_resume_exactly(
    tmp_path: Path,
) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    torch.multiprocessing.spawn(in_each_process, (tmp_path, port), nprocs=2)  # type: ignore[attr-defined]
    first, second = (torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in (0, 1))
    plain = 4 * (60 + sum(n * m for n, m in ((40, 60), *SHAPES)))
    factors = 4 * (60 + sum(2 * (n + m) for n, m in ((40, 60), *SHAPES)))
    figures = 4 * 3  # loss, norm: what an update fetches
    assert first["plain bytes"] - plain <= figures
    assert first["whole bytes"] - factors <= figures
    assert first["whole loss"] < 1.5 * first["plain loss"]
    for name in ("plain", "whole", "after a skip"):
        assert torch.equal(first[name], second[name])
        assert first[name].isfinite().all()
    assert not torch.equal(first["plain"], first["whole"])
    for name in first:
        if name.startswith("resumed"):
            assert torch.equal(first["whole"], first[name]), name
            assert torch.equal(first["whole"], second[name]), name
    assert first["skipped"] == second["skipped"] == 1


@pytest.mark.slow
def test_a_compressed_run_is_resumed(
    run_in_two_processes: Callable[..., None], image_folder: Path, tmp_path: Path
) -> None:
    options = [*TINY, f"data.path={image_folder}", "run.batch_size=2"]
    options += ["optimiser.power_sgd=1", "optimiser.power_sgd_start=2"]
    for name, updates in (("whole", 6), ("parts", 4), ("parts", 6)):
        run_in_two_processes(
            "train_clip.py", *options, f"run.out={tmp_path / name}", f"run.updates={updates}"
        )
    whole, parts = (
        load_file(tmp_path / name / "checkpoint/model.safetensors") for name in ("whole", "parts")
    )
    assert all(torch.equal(whole[name], parts[name]) for name in whole)
    rates = [x["compression"] for x in log_lines(tmp_path / "whole") if "compression" in x]
    assert rates[:2] == [0, 0]
    assert min(rates[2:]) > 1.5
