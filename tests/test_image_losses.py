"""Perceptual and adversarial losses: values, gradients, the discriminator's own training."""

import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from rankers import log_lines, untrained
from torch import Tensor, nn
from torch.nn import functional as F

import train_dvae
from dalle_base.common.checkpoint import fingerprint, read_training_state, read_weights
from dalle_base.common.errors import UserError
from dalle_base.training.config import OptimiserConfig
from dalle_base.training.run import Run
from dalle_base.training.trainer import Trainer
from dual_encoder.checkpoint import save_dual_encoder
from dual_encoder.perceptual import ImageTower
from dvae import adversarial
from dvae.adversarial import Adversary, Watch, gradient_ratio, hinge, lecam
from dvae.config import DVAEConfig, NetworkConfig, ObjectiveConfig
from dvae.discriminator import Discriminator, frozen_logits
from dvae.image_losses import ImageLosses
from dvae.image_losses_config import NETWORKS, PERCEPTUAL, AdversarialConfig, PerceptualConfig
from dvae.model import DiscreteVAE
from dvae.objective import reconstruction_of
from dvae.perceptual import perceptual_distance
from dvae.tokenizer import ImageTokenizer, LossReport

TINY = [
    *("model.image_size=16", "model.grid=4", "model.codebook_size=12", "model.network.width=8"),
    *("model.network.groups=2", "model.network.blocks=1", "model.network.decoder_init=8"),
    *("model.network.stem_stride=2", "optimiser.lr=0.003", "run.log_every=1", "run.batch_size=4"),
    *("data.held_out_share=0.3", "held_out_images=2"),
]
ADVERSARIAL = [
    *("model.objective.adversarial.weight=0.5", "model.objective.adversarial.layers=2"),
    *("model.objective.adversarial.channels=4", "model.objective.adversarial.start=3"),
]
LAST = "decoder.blocks.output.conv.w"
Train = Callable[..., tuple[int, str, str]]


class Toy(nn.Module):
    """Two frozen convolutions in place of the pretrained network."""

    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        weights = [torch.randn(n, m, 3, 3, generator=generator) for m, n in ((3, 5), (5, 4))]
        self.weights = nn.ParameterList(nn.Parameter(w, requires_grad=False) for w in weights)

    def activations(self, images: Tensor, blocks: Sequence[int], size: int) -> list[Tensor]:
        x, outputs = F.interpolate(images, (size, size)), []
        for number, weight in enumerate(self.weights):
            x = F.conv2d(x, weight, stride=2).tanh()
            if number in blocks:
                outputs.append(x)
        return outputs


@pytest.fixture
def train(
    image_folder: Path,
    tmp_path: Path,
    run_script: Callable[..., tuple[int, str, str]],
    monkeypatch: pytest.MonkeyPatch,
) -> Train:
    """Train a tiny tokenizer in a named run; the perceptual network is a toy."""
    monkeypatch.setitem(NETWORKS.places, "lite0", Toy)

    def run(name: str, *overrides: str) -> tuple[int, str, str]:
        shared = [*TINY, f"data.path={image_folder}", f"run.out={tmp_path / name}"]
        return run_script(train_dvae.main, *shared, *overrides)

    return run


def same(one: Any, other: Any) -> bool:
    """Whether two nested states are equal to the bit."""
    if isinstance(one, Tensor):
        return torch.equal(one, other)
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(same, one, other))
    return one == other


def small(**objective: Any) -> DVAEConfig:
    network = NetworkConfig(width=8, groups=3, blocks=1, decoder_init=8)
    return DVAEConfig(16, 4, 12, network, ObjectiveConfig(**objective))


def test_the_perceptual_distance_is_lpips_without_its_weights() -> None:
    images, others = torch.rand(2, 2, 3, 24, 24)
    network = Toy()
    expected = 0.0
    for block in (0, 1):
        for image, other in zip(images, others, strict=True):
            [a] = network.activations(image[None], [block], 20)
            [b] = network.activations(other[None], [block], 20)
            rows, columns = a.shape[-2:]
            for r in range(rows):
                for c in range(columns):
                    x, y = a[0, :, r, c], b[0, :, r, c]
                    squares = (x / x.norm() - y / y.norm()).square().sum()
                    expected += float(squares) / (rows * columns * len(images))
    distance = perceptual_distance(network, images, others, [0, 1], 20)
    assert float(distance) == pytest.approx(expected, rel=1e-4)
    assert float(perceptual_distance(network, images, images, [0, 1], 20)) == 0


def test_the_perceptual_gradient_is_the_reconstructions_alone() -> None:
    images, others = (torch.rand(2, 3, 24, 24, requires_grad=True) for _ in range(2))
    perceptual_distance(Toy(), images, others, [1], 24).backward()
    assert images.grad is None
    assert others.grad is not None
    assert others.grad.abs().sum() > 0


def test_black_activations_have_a_finite_gradient() -> None:
    images = torch.zeros(1, 3, 24, 24, requires_grad=True)
    perceptual_distance(Toy(), torch.rand(1, 3, 24, 24), images, [0, 1], 24).backward()
    assert images.grad is not None
    assert images.grad.isfinite().all()


def test_the_pretrained_network_finds_a_blur_further_off_than_a_tint() -> None:
    pytest.importorskip("efficientnet_lite_pytorch")
    network, options = NETWORKS["lite0"](), PerceptualConfig()
    torch.manual_seed(0)
    images = torch.rand(1, 3, 16, 16).round().repeat_interleave(4, 2).repeat_interleave(4, 3)
    blurred = F.avg_pool2d(images, 5, 1, 2)
    tinted = images + (blurred - images).abs().mean()  # as far off in pixels
    far, near = (
        float(perceptual_distance(network, images, other, options.blocks, options.size))
        for other in (blurred, tinted)
    )
    assert far > 2 * near > 0


def test_hinge_and_lecam_follow_their_formulas() -> None:
    real, fake = torch.tensor([2.0, 0.5, -1.0]), torch.tensor([-3.0, 0.0, 1.0])
    assert float(hinge(real, fake)) == pytest.approx(0.5 * (2.5 / 3 + 3 / 3))
    # above −0.5: 2.5, 1, 0; below 0.25: 3.25, 0.25, 0
    expected = (2.5**2 + 1) / 3 + (3.25**2 + 0.25**2) / 3
    assert float(lecam(real, fake, torch.tensor([0.25, -0.5]))) == pytest.approx(expected)


@pytest.mark.parametrize(("layers", "view", "side"), [(2, 34, 30), (3, 70, 14)])
def test_the_discriminator_judges_patches(layers: int, view: int, side: int) -> None:
    config = AdversarialConfig(channels=4, layers=layers, norm="none")
    network = Discriminator(config, 128)
    for parameter in network.parameters():
        nn.init.uniform_(parameter, 0.1, 0.2)  # no gradient cancels
    images = torch.rand(1, 3, 128, 128, requires_grad=True)
    [logits] = network(images)
    assert logits.shape == (1, 1, side, side)
    logits[0, 0, side // 2, side // 2].backward()
    assert images.grad is not None
    seen = images.grad[0].abs().sum(dim=0) > 0
    assert int(seen.any(dim=0).sum()) == int(seen.any(dim=1).sum()) == view


@pytest.mark.parametrize("norm", ["group", "batch", "none"])
def test_batches_are_judged_apart(norm: str) -> None:
    network = Discriminator(AdversarialConfig(channels=4, layers=2, norm=norm), 16)
    assert not list(network.buffers())
    real, fake = torch.rand(2, 3, 3, 16, 16)
    both = network(real, fake)
    assert both[0].shape == (3, 1, 2, 2)
    assert torch.equal(both[0], network(real)[0])
    assert torch.equal(both[1], network(fake)[0])
    weights = torch.cat([p.flatten() for n, p in network.named_parameters() if p.ndim > 1])
    assert weights.std().item() == pytest.approx(0.02, rel=0.1)


def test_images_too_small_for_the_discriminator_are_refused() -> None:
    with pytest.raises(UserError, match=r"layers=3 needs images of 24 pixels or more, not 16"):
        Discriminator(AdversarialConfig(), 16)


def test_the_generators_gradient_passes_through_the_discriminator_and_stays_out_of_it() -> None:
    network = Discriminator(AdversarialConfig(channels=4, layers=2), 16)
    images = torch.rand(2, 3, 16, 16, requires_grad=True)
    frozen = torch.autograd.grad(frozen_logits(network, images).mean(), images)[0]
    frozen_logits(network, images).mean().backward()
    assert all(parameter.grad is None for parameter in network.parameters())
    plain = torch.autograd.grad(network(images)[0].mean(), images)[0]
    assert torch.equal(frozen, plain)
    assert plain.abs().sum() > 0


def test_the_adaptive_weight_is_the_ratio_of_gradients_at_the_last_layer() -> None:
    layer = torch.rand(4, 3, requires_grad=True)
    x, y = torch.rand(3), torch.rand(4)
    others, adversarial = 5 * (layer @ x).sum(), (layer.T @ y).sum()
    # By hand: the gradients are 5 · 1 xᵀ and y 1ᵀ.
    expected = 5 * float(x.norm()) * 2 / (float(y.norm()) * 3**0.5 + 1e-4)
    ratio = gradient_ratio(others, adversarial, layer, 1e4)
    assert float(ratio) == pytest.approx(expected, rel=1e-5)
    assert not ratio.requires_grad
    assert layer.grad is None
    assert float(gradient_ratio(others, adversarial, layer, 0.5)) == 0.5


@pytest.mark.parametrize("likelihood", ["logit_laplace", "gaussian"])
def test_the_dvae_reports_what_its_decoder_shows(likelihood: str) -> None:
    torch.manual_seed(0)
    model = DiscreteVAE(small(decoder_only=True, likelihood=likelihood))
    nn.init.normal_(model.last_layer(), std=20.0)  # some of it outside [0, 1]
    images = torch.rand(2, 3, 16, 16)
    shown = model.loss(images, 0).reconstruction
    assert shown is not None
    assert shown.min() < 0
    assert shown.max() > 1
    assert torch.allclose(shown.clamp(0, 1), model.reconstruct(images), atol=1e-6)


def test_the_reconstruction_has_a_gradient_outside_the_range_of_pixels() -> None:
    mu = torch.tensor([4.0, -4.0], requires_grad=True)
    reconstruction_of(mu).sum().backward()
    assert mu.grad is not None
    assert (mu.grad > 0.01).all()


def test_absolute_error_may_stand_in_for_the_likelihood() -> None:
    options = {"likelihood_weight": 0.0, "l1_weight": 4.0, "kl_weight": 0.0}
    model = DiscreteVAE(small(decoder_only=True, **options))
    images = torch.rand(2, 3, 16, 16)
    report = model.loss(images, 0)
    assert report.reconstruction is not None
    error = (report.reconstruction - images).abs().mean()
    assert report.total.item() == pytest.approx(4 * error.item(), rel=1e-6)
    assert float(report.metrics["l1"]) == pytest.approx(error.item())
    assert "l1" not in DiscreteVAE(small()).loss(images, 0).metrics


def test_without_either_loss_the_report_is_the_tokenizers_own() -> None:
    losses, report = ImageLosses(small()), LossReport(torch.ones(()))
    assert losses.network is None
    assert losses.add(report, torch.rand(1, 3, 16, 16), 0) is report
    assert losses.update(report, torch.rand(1, 3, 16, 16), 0) == {}
    assert losses.state_dict() == {}
    losses.load_state_dict({})  # from a checkpoint of an earlier version
    assert ImageLosses(object()).adversarial.weight == 0  # a tokenizer that knows of neither


def test_a_tokenizer_without_reconstruction_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(NETWORKS.places, "lite0", Toy)
    losses = ImageLosses(small(perceptual=PerceptualConfig(weight=1.0)))
    with pytest.raises(UserError, match="reports no reconstruction"):
        losses.add(LossReport(torch.ones(())), torch.rand(1, 3, 16, 16), 0)


@pytest.mark.slow
def test_a_dual_encoder_of_ones_own_compares_images(train: Train, tmp_path: Path) -> None:
    ranker = untrained()
    save_dual_encoder(tmp_path / "clip", ranker, dtype=torch.float32)
    where = f"model.objective.perceptual.folder={tmp_path / 'clip'}"
    chosen = [f"{PERCEPTUAL}.weight=1", f"{PERCEPTUAL}.network=dual_encoder"]
    status, _, error = train("own", *chosen, where, f"{PERCEPTUAL}.blocks=[0]")
    assert status == 0, error
    assert log_lines(tmp_path / "own")[0]["perceptual"] > 0
    for blocks, place, named in (
        ("[0, 4]", where, "has 1 layers: write some of 0 to 0"),
        ("[0]", "run.updates=1", f"{PERCEPTUAL}.folder is empty"),
        ("[0]", f"{PERCEPTUAL}.folder={tmp_path}", str(tmp_path)),
    ):
        status, _, error = train("bad", *chosen, place, f"{PERCEPTUAL}.blocks={blocks}")
        assert status == 2
        assert named in error
        assert not (tmp_path / "bad").exists()
    status, _, error = train("bad", f"{PERCEPTUAL}.weight=1", where)
    assert status == 2
    assert "lite0 brings its own weights" in error


def test_the_image_towers_activations_are_its_patches_states() -> None:
    model = untrained().model
    tower = ImageTower(model)
    images = torch.rand(3, 3, 8, 8, requires_grad=True)
    [states] = tower.train().activations(images, [0], 96)
    assert states.shape == (3, 16, 2, 2)
    assert not tower.training
    states.sum().backward()
    assert images.grad is not None
    assert not any(parameter.requires_grad for parameter in tower.parameters())
    # The class token, left out here, makes the features: both follow from the same blocks.
    x = model.visual.transformer(model.visual.embed((images - model.mean) / model.std))
    torch.testing.assert_close(states.flatten(2).mT, x[:, 1:])
    features = F.normalize(model.visual.ln_post(x[:, 0]) @ model.visual.proj, dim=-1)
    torch.testing.assert_close(features, model.encode_image(images))
    with torch.no_grad():
        [small] = tower.activations(F.interpolate(images, (16, 16)), [0], 1)
    assert small.shape == states.shape


@pytest.fixture
def run(tmp_path: Path) -> Run:
    config = train_dvae.TrainDVAE()
    config.run.out = str(tmp_path / "run")
    return Run(config)


def test_neither_step_leaves_gradients_on_the_other(run: Run) -> None:
    config = AdversarialConfig(weight=0.5, channels=4, layers=2, adaptive=True, lecam=0.1)
    tokenizer = DiscreteVAE(small(adversarial=config))
    losses = ImageLosses(tokenizer.config)
    losses.attach(tokenizer, run)
    adversary = losses.adversary
    assert adversary is not None
    images = torch.rand(2, 3, 16, 16)
    own = tokenizer(images, 0)
    report = losses.add(own, images, 0)
    assert report.total.item() != own.total.item()
    report.total.backward()
    assert all(parameter.grad is not None for parameter in tokenizer.parameters())
    assert all(parameter.grad is None for parameter in adversary.network.parameters())
    tokenizer.zero_grad()
    before = {name: value.clone() for name, value in adversary.network.state_dict().items()}
    losses.update(report, images, 0)
    assert all(parameter.grad is None for parameter in tokenizer.parameters())
    assert not any(torch.equal(before[n], v) for n, v in adversary.network.state_dict().items())
    assert not [name for name in tokenizer.state_dict() if "layers" in name]


def test_the_weight_rises_once_the_discriminator_has_started(run: Run) -> None:
    config = AdversarialConfig(weight=0.8, channels=4, layers=2, start=10, ramp=4)
    adversary = Adversary(config, DiscreteVAE(small()), run)
    assert [adversary.started(step) for step in (9, 10)] == [False, True]
    images, others = torch.rand(2, 3, 16, 16), torch.ones(())
    expected = -frozen_logits(adversary.network, images).mean().item()
    for step, share in ((10, 0.25), (12, 0.75), (13, 1.0), (50, 1.0)):
        loss, figures = adversary.generator_loss(images, others, step)
        assert loss.item() == pytest.approx(0.8 * share * expected)
        assert float(figures["adversarial"]) == pytest.approx(expected)


def test_the_discriminators_step_size_falls_from_its_own_start(run: Run) -> None:
    config = AdversarialConfig(weight=1.0, channels=4, layers=2, lr=1e-3, decay_updates=4)
    adversary = Adversary(config, DiscreteVAE(small()), run)
    seen = []
    for _ in range(5):
        seen.append(adversary.trainer.lr)
        adversary.update(torch.rand(2, 3, 16, 16), torch.rand(2, 3, 16, 16))
    assert seen[0] == 1e-3
    assert seen[2] == pytest.approx(5e-4)
    assert seen[4] == 0
    constant = Adversary(replace(config, decay_updates=0), DiscreteVAE(small()), run)
    constant.trainer.step = 10**6
    assert constant.trainer.lr == 1e-3


def test_a_loss_that_is_not_finite_names_the_discriminator(run: Run) -> None:
    config = AdversarialConfig(weight=1.0, channels=4, layers=2)
    adversary = Adversary(config, DiscreteVAE(small()), run)
    images = torch.rand(2, 3, 16, 16)
    with pytest.raises(UserError, match=r"discriminator's loss is nan.*adversarial\.lr"):
        adversary.update(images, images * float("nan"))


class Nameless(ImageTokenizer):
    """A tokenizer that does not name its last layer."""

    image_size = 16

    def encode(self, images: Tensor) -> Tensor:
        return images

    def decode(self, codes: Tensor) -> Tensor:
        return codes

    def loss(self, images: Tensor, step: int) -> LossReport:
        return LossReport(images.mean())


def test_an_adaptive_weight_needs_a_last_layer(run: Run) -> None:
    config = AdversarialConfig(weight=1.0, layers=2, adaptive=True)
    with pytest.raises(UserError, match="adaptive=false"):
        Adversary(config, Nameless(), run)


def test_a_discriminator_has_won_when_it_is_right_for_long_and_it_is_said_once() -> None:
    watch = Watch()
    said = [watch.see(1.0, False) for _ in range(1000)]
    [when] = [number for number, line in enumerate(said) if line]
    assert when > adversarial.PATIENCE
    assert "99" in said[when] or "100" in said[when]
    even = Watch()
    assert not any(even.see(0.9 + 0.2 * (n % 2), False) for n in range(1000) if n % 2 == 0)
    bounded = Watch()
    said = [bounded.see(0.5, True) for _ in range(1000)]
    assert [line for line in said if line] == ["its adaptive weight is at its bound"]


def test_a_run_says_that_its_discriminator_has_won_and_goes_on(
    train: Train, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(adversarial, "RIGHT", -1.0)
    monkeypatch.setattr(adversarial, "PATIENCE", 2)
    status, out, _ = train("run", *ADVERSARIAL, "run.updates=6")
    assert status == 0
    [line] = [line for line in out.splitlines() if "has won" in line]
    assert "lower model.objective.adversarial.weight (now 0.5)" in line
    assert "raise model.objective.adversarial.start (now 3)" in line
    assert f"init={tmp_path / 'run/checkpoint'}" in line
    status, out, _ = train("run", *ADVERSARIAL, "run.updates=9")
    assert status == 0
    assert "has won" not in out


def test_resuming_is_exact_before_and_after_the_discriminators_start(
    train: Train, tmp_path: Path
) -> None:
    options = [
        *ADVERSARIAL,
        *("model.objective.adversarial.adaptive=true", "model.objective.adversarial.lecam=0.1"),
        *("model.objective.adversarial.decay_updates=4", "model.objective.perceptual.weight=1"),
        *("model.objective.adversarial.ramp=3", "model.objective.perceptual.blocks=[0, 1]"),
    ]
    assert train("straight", *options, "run.updates=8")[0] == 0
    for updates in (2, 5, 8):
        assert train("parts", *options, f"run.updates={updates}")[0] == 0
    folders = [tmp_path / name / "checkpoint" for name in ("straight", "parts")]
    weights = [read_weights(folder) for folder in folders]
    states = [read_training_state(folder) for folder in folders]
    assert all(state["extra"].pop("seconds") > 0 for state in states)  # which the clock decides
    assert same(*weights)
    assert same(*states)
    assert states[0]["beside"]["trainer"]["step"] == 5
    assert states[0]["beside"]["lecam"].shape == (2,)
    assert log_lines(tmp_path / "straight") == [
        line for line in log_lines(tmp_path / "parts") if "psnr" not in line or line["step"] == 8
    ]


def test_until_it_starts_a_discriminator_changes_nothing(train: Train, tmp_path: Path) -> None:
    train("off", "run.updates=5")
    train("on", *ADVERSARIAL, "run.updates=5")
    off, on = ([m for m in log_lines(tmp_path / name) if "loss" in m] for name in ("off", "on"))
    assert on[:3] == off[:3]
    assert on[3]["loss"] != off[3]["loss"]
    added = {"adversarial", "discriminator", "discriminator_real", "discriminator_fake"}
    assert set(on[3]) - set(off[3]) == added
    assert not set(off[3]) - set(on[3])
    names = [set(read_weights(tmp_path / name / "tokenizer")) for name in ("off", "on")]
    assert names[0] == names[1]


def test_a_checkpoint_without_a_discriminator_resumes_where_none_is_asked_for(
    train: Train, tmp_path: Path
) -> None:
    train("run", "run.updates=2")
    path = tmp_path / "run/checkpoint/training.pt"
    state = torch.load(path, weights_only=True)
    assert state.pop("beside") == {}
    torch.save(state, path)
    status, out, _ = train("run", "run.updates=3")
    assert status == 0
    assert "resumed" in out
    status, _, error = train("run", *ADVERSARIAL, "run.updates=4")
    assert status == 2
    assert "adversarial" in error


def test_losses_of_images_leave_codes_alone_where_only_the_decoder_trains(
    train: Train, tmp_path: Path
) -> None:
    train("first", "run.updates=2", "precision=float32")
    options = [
        *("model.objective.decoder_only=true", "model.objective.adversarial.start=0"),
        *("model.objective.perceptual.weight=1", "model.objective.perceptual.blocks=[1]"),
        *("optimiser.weight_decay=1", f"init={tmp_path / 'first/tokenizer'}"),
    ]
    for name in ("adamw", "muon"):
        more = [f"optimiser.name={name}", "run.updates=3", "precision=float32"]
        assert train(name, *ADVERSARIAL, *options, *more)[0] == 0
        before, after = (read_weights(tmp_path / n / "tokenizer") for n in ("first", name))
        for key, value in before.items():
            if key.startswith("encoder."):
                assert torch.equal(value, after[key]), key
        assert not torch.equal(before[LAST], after[LAST])
        prints = [
            fingerprint({k: v for k, v in weights.items() if k.startswith("encoder.")})
            for weights in (before, after)
        ]
        assert prints[0] == prints[1]
        figures = log_lines(tmp_path / name)[0]
        assert figures["perceptual"] > 0


def test_a_missing_network_is_said_before_anything_is_written(
    tmp_path: Path, run_script: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "efficientnet_lite_pytorch", None)
    options = [*TINY, "data.path=nowhere", "model.objective.perceptual.weight=1"]
    status, _, error = run_script(train_dvae.main, *options, f"run.out={tmp_path / 'run'}")
    assert status == 2
    assert "efficientnet_lite_pytorch, which is not installed" in error
    assert len(error.strip().splitlines()) == 1
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("override", "complaint"),
    [
        ("perceptual.network=vgg", "use one of lite0"),
        ("perceptual.blocks=[0, 16]", "0 to 15"),
        ("perceptual.blocks=[2, 2]", "counts once"),
        ("adversarial.norm=layer", "group, batch, none"),
        ("adversarial.beta1=1.0", "below 1"),
        ("adversarial.weight=-1", "from 0 to"),
        ("perceptual.weight=-1", "from 0 to"),
        ("l1_weight=-1", "from 0 to"),
    ],
)
def test_impossible_values_name_their_key(
    tmp_path: Path, run_script: Callable[..., Any], override: str, complaint: str
) -> None:
    argument = f"model.objective.{override}"
    status, _, error = run_script(train_dvae.main, *TINY, argument, f"run.out={tmp_path / 'run'}")
    assert status == 2
    assert argument.partition("=")[0] in error
    assert complaint in error


def test_the_average_has_the_models_buffers() -> None:
    class Counted(nn.BatchNorm1d):
        def __init__(self) -> None:
            super().__init__(2)
            self.register_buffer("table", torch.zeros(3), persistent=False)

    model = Counted()
    config = OptimiserConfig(ema_every=2)
    trainer = Trainer(model, config, Accelerator(cpu=True))
    assert trainer.average.running_mean is not None
    for update in range(4):
        trainer.update(trainer.model(torch.randn(8, 2) + 5).square().mean())
        equal = torch.equal(trainer.average.running_mean, model.running_mean)  # type: ignore
        assert equal == (update % 2 == 1)
    assert float(trainer.average.running_mean.mean()) > 1
    assert int(trainer.average.num_batches_tracked) == 4  # type: ignore[arg-type]


def test_a_metric_that_begins_late_is_averaged_over_the_updates_that_had_it(
    train: Train, tmp_path: Path
) -> None:
    train("each", *ADVERSARIAL, "run.updates=4")
    train("all", *ADVERSARIAL, "run.updates=4", "run.log_every=4")
    each, together = log_lines(tmp_path / "each"), log_lines(tmp_path / "all")
    together = together[1:]  # the first update is written by itself
    assert together[0]["adversarial"] == each[3]["adversarial"]
    assert together[0]["loss"] == pytest.approx(sum(m["loss"] for m in each[:4]) / 4)


@pytest.mark.slow
@pytest.mark.parametrize("only", ["true", "false"])
def test_two_processes_train_a_discriminator(
    run_in_two_processes: Callable[..., None], image_folder: Path, tmp_path: Path, only: str
) -> None:
    options = [
        *("model.objective.adversarial.adaptive=true", "model.objective.adversarial.lecam=0.1"),
        *("model.objective.adversarial.start=1", f"model.objective.decoder_only={only}"),
    ]
    shared = [*TINY, *ADVERSARIAL, f"data.path={image_folder}", *options, "run.save_every=3"]
    run_in_two_processes(
        "train_dvae.py", *shared, f"run.out={tmp_path / 'straight'}", "run.updates=6"
    )
    for updates in (3, 6):
        run_in_two_processes(
            "train_dvae.py", *shared, f"run.out={tmp_path / 'parts'}", f"run.updates={updates}"
        )
    states = [read_training_state(tmp_path / n / "checkpoint") for n in ("straight", "parts")]
    assert states[0]["beside"]["trainer"]["step"] == 5
    assert same(states[0]["beside"]["trainer"]["model"], states[1]["beside"]["trainer"]["model"])
    assert same(states[0]["trainer"]["model"], states[1]["trainer"]["model"])
