"""Schedules, the optimiser's settings and the average of the parameters."""

import math
import platform
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from accelerate import Accelerator
from builders import build
from rankers import untrained
from torch import nn

from dalle_base.common.errors import UserError
from dalle_base.training.config import OptimiserConfig, RunConfig
from dalle_base.training.decay import decay_groups
from dalle_base.training.optimisers import muon as muon_module
from dalle_base.training.optimisers.muon import RMS, Muon, orthogonalised, product_type
from dalle_base.training.run import Run
from dalle_base.training.schedules import Plateau, cosine, warmup
from dalle_base.training.trainer import Trainer
from dvae.config import DVAEConfig, NetworkConfig
from dvae.model import DiscreteVAE
from train_dvae import TrainDVAE


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


@pytest.mark.parametrize("shape", [(6, 20), (20, 6), (8, 8), (1, 5)])
def test_orthogonalising_keeps_directions_and_evens_out_their_strengths(shape) -> None:
    torch.manual_seed(0)
    u, _, vh = torch.linalg.svd(torch.randn(shape), full_matrices=False)
    strengths = torch.logspace(0, -2, len(vh))
    out = orthogonalised(u * strengths @ vh)
    even = torch.linalg.svdvals(out)
    assert even.min() > 0.5
    assert even.max() < 1.3
    # In the matrix's own singular directions the result is diagonal, up to bfloat16.
    turned = u.T @ out @ vh.T
    assert (turned - turned.diag().diag()).abs().max() < 0.05
    assert (turned.diag() > 0).all()


def test_muon_steps_hidden_weights_by_their_momentum_and_the_rest_as_adamw() -> None:
    torch.manual_seed(0)
    convolution, linear, twin = nn.Conv2d(4, 6, 3), nn.Linear(6, 2), nn.Linear(6, 2)
    twin.load_state_dict(linear.state_dict())
    hidden = [convolution.weight]
    parameters = [*hidden, *linear.parameters()]
    groups = [{"params": hidden, "orthogonal": True}, {"params": linear.parameters()}]
    muon = Muon(groups, lr=0.1, weight_decay=0.5)
    adamw = torch.optim.AdamW(twin.parameters(), lr=0.1, weight_decay=0.5)
    expected, mean = hidden[0].detach().clone(), torch.zeros_like(hidden[0])
    for _ in range(3):
        gradients = [torch.randn_like(p) for p in parameters]
        for parameter, gradient in zip(parameters, gradients, strict=True):
            parameter.grad = gradient.clone()
        for parameter, gradient in zip(twin.parameters(), gradients[1:], strict=True):
            parameter.grad = gradient.clone()
        muon.step()
        adamw.step()
        mean = 0.95 * mean + 0.05 * gradients[0]
        update = orthogonalised((0.95 * mean + 0.05 * gradients[0]).flatten(1)).view_as(expected)
        expected = expected * (1 - 0.1 * 0.5) - 0.1 * RMS * 36**0.5 * update
    torch.testing.assert_close(hidden[0].detach(), expected, rtol=1e-4, atol=1e-4)
    for ours, theirs in zip(linear.parameters(), twin.parameters(), strict=True):
        assert torch.equal(ours, theirs)


class OneHidden(nn.Sequential):
    """Two layers, of which the first is between hidden ones."""

    def hidden_weights(self) -> list[torch.Tensor]:
        return [next(self.parameters())]


def test_the_trainer_gives_muon_the_hidden_weights_and_resumes_its_momentum() -> None:
    def make() -> Trainer[nn.Sequential]:
        torch.manual_seed(0)
        model = OneHidden(nn.Linear(3, 4), nn.Linear(4, 2))
        config = OptimiserConfig(name="muon", lr=0.1, schedule="constant", weight_decay=0.1)
        return Trainer(model, config, Accelerator(cpu=True))

    def train(trained: Trainer[nn.Sequential]) -> None:
        trained.update(trained.model(torch.linspace(-1, 1, 6).view(2, 3)).square().sum())

    whole, first, second = make(), make(), make()
    groups = whole.optimiser.param_groups
    flags = [(len(g["params"]), g["orthogonal"], g["weight_decay"]) for g in groups]
    assert flags == [(1, True, 0.1), (1, False, 0.1), (2, False, 0.0)]
    for trained in (whole, whole, first):
        train(trained)
    second.load_state_dict(first.state_dict(), first.average.state_dict())
    train(second)
    for ours, theirs in zip(whole.model.parameters(), second.model.parameters(), strict=True):
        assert torch.equal(ours, theirs)


def test_an_unknown_optimiser_is_refused_with_those_that_exist() -> None:
    with pytest.raises(UserError, match=r"optimiser.name is 'sgd'; use one of adamw, muon"):
        OptimiserConfig(name="sgd").validate()


def test_a_run_remembers_its_best_figures(tmp_path: Path) -> None:
    run = Run(TrainDVAE(run=RunConfig(out=str(tmp_path))))
    assert math.isnan(run.best("loss"))
    assert [run.is_best("loss", x, lower=True) for x in (3.0, 4.0, 3.0, 2.0)] == [1, 0, 0, 1]
    assert [run.is_best("recall", x) for x in (0.1, 0.3, 0.3, 0.2)] == [1, 1, 0, 0]
    assert (run.best("loss"), run.best("recall")) == (2.0, 0.3)
    resumed = Run(run.config)
    resumed.extra = dict(run.extra)  # what a checkpoint keeps
    assert not resumed.is_best("loss", 2.5, lower=True)
    assert resumed.is_best("recall", 0.4)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="an option of glibc")
def test_freed_memory_stays_with_the_process_where_asked():
    code = """if True:
        from pathlib import Path
        import torch
        from dalle_base.training.memory import keep_freed_memory

        def held():
            return int(Path("/proc/self/status").read_text().split("VmRSS:")[1].split()[0]) * 1024

        def left():
            before = held()
            big = torch.ones(16_000_000)
            del big
            return held() - before

        torch.ones(1)
        print(left())
        assert keep_freed_memory()
        print(left())
    """
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    handed_back, kept = map(int, done.stdout.split())
    assert handed_back < 10_000_000
    assert kept > 50_000_000


@pytest.mark.parametrize("kind", ["transformer", "tokenizer", "dual encoder"])
def test_matrices_decay_and_nothing_else_does(kind: str) -> None:
    """One rule for all models: biases, gains and what is looked up stay as they are."""
    network = NetworkConfig(width=8, groups=2, blocks=1, norm="group", attention=True)
    models = {
        "transformer": lambda: build(layers=["row", "conv"]),
        "tokenizer": lambda: DiscreteVAE(DVAEConfig(8, 4, 5, network)),
        "dual encoder": lambda: untrained().model,
    }
    kept = {
        "transformer": {"start", "text_position", "text_padding", "row_embedding.weight"},
        "tokenizer": {"encoder.blocks.input.b", "decoder.blocks.group_1.attention.norm.weight"},
        "dual encoder": {
            *("logit_scale", "token_embedding.weight", "positional_embedding"),
            *("visual.class_embedding", "visual.positional_embedding", "ln_final.weight"),
        },
    }
    decays = {
        "transformer": {"text_head.weight", "blocks.0.attention.qkv.weight"},
        "tokenizer": {"encoder.blocks.input.w", "decoder.blocks.output.conv.w"},
        "dual encoder": {
            *("visual.conv1.weight", "visual.proj", "text_projection"),
            "transformer.resblocks.0.attn.in_proj_weight",
        },
    }
    model = models[kind]()
    names = {parameter: name for name, parameter in model.named_parameters()}
    matrices, rest = ([names[p] for p in g["params"]] for g in decay_groups(model, 0.1))
    assert sorted([*matrices, *rest]) == sorted(names.values())
    assert kept[kind] <= set(rest)
    assert decays[kind] <= set(matrices)
    assert not [name for name in matrices if name.endswith(("bias", ".b"))]


def test_a_checkpoint_with_other_groups_is_refused_in_a_line() -> None:
    trainer = Trainer(nn.Linear(2, 2), OptimiserConfig(), Accelerator(cpu=True))
    state = trainer.state_dict()
    state["optimiser"] = torch.optim.AdamW(nn.Linear(2, 2).parameters()).state_dict()
    with pytest.raises(UserError, match="start from its weights with init="):
        trainer.load_state_dict(state, trainer.average.state_dict())


def test_muon_multiplies_in_the_type_that_the_device_is_fast_in(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    matrix = torch.randn(6, 30, generator=torch.Generator().manual_seed(0))
    found = {}
    for dtype in (torch.float32, torch.bfloat16):
        monkeypatch.setattr(muon_module, "product_type", lambda _, dtype=dtype: dtype)
        found[dtype] = orthogonalised(matrix)
        singular = torch.linalg.svdvals(found[dtype])
        assert 0.6 < singular.min() <= singular.max() < 1.3
        assert found[dtype].dtype == torch.float32
    torch.testing.assert_close(found[torch.float32], found[torch.bfloat16], atol=0.05, rtol=0)
    assert product_type("cuda") == torch.bfloat16
