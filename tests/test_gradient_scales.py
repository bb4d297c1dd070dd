"""Gradient scales of residual blocks: nothing changed in 32 bits, a float16 run saved."""

import copy

import pytest
import torch
from accelerate import Accelerator
from builders import build, inputs
from torch import Tensor, nn

from dalle.gradient_scales import FALL, GROWTH, LEAST, MOST, START, GradientScales, scaled_branch
from dalle.transformer import Transformer
from dalle_base.training.config import OptimiserConfig
from dalle_base.training.trainer import Trainer


def gradients(model: nn.Module) -> dict[str, Tensor | None]:
    return {name: p.grad for name, p in model.named_parameters()}


def scales_of(model: Transformer) -> GradientScales:
    assert model.gradient_scales is not None
    return model.gradient_scales


@pytest.mark.parametrize(("scale", "recompute"), [(1.0, False), (2.0**13, True)])
def test_in_32_bits_nothing_changes(scale: float, recompute: bool) -> None:
    """To the bit: a power of two changes no digit of a number, and 1 is the scale of none."""
    plain, scaled = build(recompute=recompute), build(recompute=recompute, gradient_scales=True)
    assert list(plain.state_dict()) == list(scaled.state_dict())
    scales_of(scaled).values.fill_(scale)
    tokens, codes = inputs(plain)
    for model in (plain, scaled):
        model(tokens, codes).total.backward()
    scales_of(scaled).unscale(GradientScales.branches(scaled))
    assert scales_of(scaled).good.all()
    theirs = gradients(plain)
    for name, gradient in gradients(scaled).items():
        assert torch.equal(gradient, theirs[name]), name  # type: ignore[arg-type]


def test_branches_are_all_there_is_between_the_embeddings_and_the_heads() -> None:
    model = build(gradient_scales=True, qk_norm=True)
    owned = [parameter for branch in GradientScales.branches(model) for parameter in branch]
    assert {*owned} == {*model.blocks.parameters()}
    assert len(owned) == len({*owned})
    assert len(GradientScales.branches(model)) == len(scales_of(model).values) == 4


def test_a_branch_sees_its_gradient_scaled_and_hands_it_back_finite_and_unscaled() -> None:
    seen: list[Tensor] = []

    def branch(x: Tensor) -> Tensor:
        half = x.half()
        half.register_hook(seen.append)
        return half * torch.tensor([2.0, 2.0, 60000.0], dtype=torch.float16)

    x = torch.tensor([1.0, 2.0, 3.0], requires_grad=True)
    out = scaled_branch(branch, x, torch.tensor(1024.0))
    assert out.dtype == torch.float32
    out.backward(torch.tensor([2.0**-30, 1.0, 1.0]))
    assert seen[0].tolist() == [2.0**-19, 2048.0, float("inf")]
    assert x.grad is not None
    assert x.grad.tolist() == [2.0**-29, 2.0, 0.0]  # without a scale the first would be 0
    assert torch.tensor(2.0**-30).half() == 0


def test_scales_move_by_the_papers_rule() -> None:
    scales = GradientScales(3, shares=8)
    assert scales.values.tolist() == [8 * START] * 3
    weights = [[nn.Parameter(torch.ones(2)), nn.Parameter(torch.ones(2))] for _ in range(3)]
    for (weight, other), value in zip(weights, (1.0, float("inf"), float("nan")), strict=True):
        weight.grad, other.grad = torch.tensor([1.0, value]), torch.ones(2)
    scales.unscale(weights)
    assert scales.good.tolist() == [True, False, False]
    assert weights[0][1].grad[0] == 1 / (8 * START)  # type: ignore[index]
    scales.update()
    expected = torch.tensor([GROWTH, FALL, FALL]) * 8 * START
    torch.testing.assert_close(scales.values, expected)
    for _ in range(40):
        scales.update()
    assert scales.values[1] == 8 * LEAST
    scales.good.fill_(True)
    scales.values.fill_(8 * MOST / 1.001)
    for _ in range(3):
        scales.update()
    assert scales.values.tolist() == [8 * MOST] * 3


DIVISOR = 2.0**20
"""Divides the loss, as the batches of many devices and the depth of large models do gradients."""


def trainer(scaled: bool) -> Trainer[Transformer]:
    model = build(gradient_scales=scaled, attention="reference")
    options = OptimiserConfig(lr=0.01, schedule="constant", weight_decay=0.0, eps=1e-12)
    return Trainer(model, options, Accelerator(cpu=True))


def learn(trained: Trainer[Transformer], updates: int, half: bool = True) -> list[float]:
    """The losses of so many updates on one batch; with `half`, networks compute in float16."""
    losses = []
    batch = inputs(trained.average)
    for _ in range(updates):
        with torch.autocast("cpu", torch.float16, enabled=half):
            loss = trained.model(*batch).total / DIVISOR
        losses.append(trained.update(loss) * DIVISOR)
    return losses


def test_they_save_a_run_that_float16_underflows() -> None:
    full = learn(trainer(scaled=False), 12, half=False)
    plain = learn(trainer(scaled=False), 12)
    scaled = learn(trainer(scaled=True), 12)
    fall = full[0] - full[-1]
    assert fall > 0.3
    assert plain[0] - plain[-1] < 0.5 * fall
    assert scaled[-1] == pytest.approx(full[-1], abs=0.02 * fall)


def test_a_scale_that_is_too_large_falls_alone_and_its_updates_are_skipped() -> None:
    trained = trainer(scaled=True)
    values = scales_of(trained.average).values  # which is a copy, and moves with nothing
    own = trained.scales.values
    own[1] = 2.0**60
    before = [p.clone() for p in trained.model.parameters()]
    learn(trained, 1)
    assert trained.skipped
    assert all(torch.equal(a, b) for a, b in zip(before, trained.model.parameters(), strict=True))
    assert own[1] == MOST  # the largest that there may be
    torch.testing.assert_close(own[[0, 2, 3]], torch.full((3,), START * GROWTH))
    assert (values == START).all()
    learn(trained, 1)
    assert not trained.skipped


def test_scales_are_resumed_and_no_part_of_the_weights() -> None:
    whole, parts, resumed = (trainer(scaled=True) for _ in range(3))
    learn(whole, 6)
    learn(parts, 3)
    state = copy.deepcopy(parts.state_dict())
    assert not [name for name in state["model"] if "scale" in name]
    resumed.load_state_dict(state, parts.average.state_dict())
    learn(resumed, 3)
    assert torch.equal(whole.scales.values, resumed.scales.values)
    for one, other in zip(whole.model.parameters(), resumed.model.parameters(), strict=True):
        assert torch.equal(one, other)


def test_they_take_the_place_of_loss_scaling() -> None:
    accelerator = Accelerator(cpu=True)
    accelerator.scaler = torch.amp.GradScaler("cpu")
    Trainer(build(), OptimiserConfig(), accelerator)
    assert accelerator.scaler.is_enabled()
    Trainer(build(gradient_scales=True), OptimiserConfig(), accelerator)
    assert not accelerator.scaler.is_enabled()
