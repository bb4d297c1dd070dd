"""The recipes of CONTRIBUTING.md, each followed with a toy: one file and one line."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from builders import build, inputs, tiny_model
from PIL import Image
from rankers import COLOURS, colour_ranker, plain

import train_dvae
from dalle.config import Sampling
from dalle.generate import generate
from dalle.patterns import PATTERNS
from dalle_base.common.images import to_array, to_tensor
from dalle_base.data.sources import SOURCES
from dalle_base.training.optimisers import OPTIMISERS
from dalle_evaluation.metrics import METRICS, RECONSTRUCTION_METRICS
from dalle_evaluation.reconstructions import measure_reconstructions
from dalle_evaluation.scores import HeldOutImages, scores
from dvae.checkpoint import load_tokenizer
from dvae.kinds import KINDS

PATTERN = '''
from dataclasses import dataclass

from dalle.patterns.base import Pattern


class Knight(Pattern):
    """The codes that are a multiple of so many places back, and the code itself."""

    name = "knight"

    @dataclass(frozen=True)
    class Options:
        stride: int = 3

    def sees(self, query, key, stream):
        return (query - key) % self.options.stride == 0
'''
TOKENIZER = '''
from dataclasses import dataclass

import torch
from torch.nn import functional as F

from dvae.tokenizer import ImageTokenizer, LossReport


@dataclass
class GreyConfig:
    """Levels of grey, one for each patch."""

    levels: int = 4
    """How many."""


class Grey(ImageTokenizer):
    def __init__(self, config):
        super().__init__()
        self.vocab_size, self.image_size, self.rows, self.columns = config.levels, 8, 2, 2
        self.gain = torch.nn.Parameter(torch.ones(()))

    def encode(self, images):
        grey = F.adaptive_avg_pool2d(images.mean(dim=1, keepdim=True), 2)[:, 0]
        return (grey * self.vocab_size).long().clamp(0, self.vocab_size - 1)

    def decode(self, codes):
        grey = (self.gain * (codes[:, None] + 0.5) / self.vocab_size).clamp(0, 1)
        return F.interpolate(grey, size=8).expand(-1, 3, -1, -1)

    def loss(self, images, step):
        return LossReport((self.decode(self.encode(images)) - images).square().mean())
'''
SOURCE = '''
from dataclasses import dataclass

from PIL import Image

from dalle_base.data.config import DataConfig
from dalle_base.data.sources.base import Record


@dataclass
class PlainConfig(DataConfig):
    """Images of one colour."""

    colour: str = "red"
    """Which."""

    def open(self):
        return Plain(self.colour), Plain(self.colour)


class Plain:
    def __init__(self, colour):
        self.colour = colour

    def __len__(self):
        return 5

    def record(self, index):
        return Record("plain", Image.new("RGB", (8, 8), self.colour), self.colour)

    def has_caption(self, index):
        return True
'''
OPTIMISER = """
import torch


def make(groups, hidden, config):
    return torch.optim.SGD(groups, lr=config.lr, momentum=config.beta1)
"""
METRIC = '''
import numpy as np


def measure(pairs):
    """The mean red of each image."""
    return {"redness": np.array([np.asarray(image)[..., 0].mean() for image in pairs.images])}
'''
RECONSTRUCTION_METRIC = '''
def measure(given):
    """How much brighter reconstructions are."""
    return {"brighter": (given.rebuilt - given.images).mean(dim=(1, 2, 3)).numpy()}
'''


@pytest.fixture
def toy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str, str], None]:
    """Writes a module that can be imported."""
    monkeypatch.syspath_prepend(tmp_path)

    def write(name: str, code: str) -> None:
        (tmp_path / f"{name}.py").write_text(code, encoding="utf-8")

    return write


@pytest.fixture
def train(tmp_path: Path, image_folder: Path, run_script) -> Callable[..., Path]:
    """Trains a tokenizer for two updates; returns its folder."""

    def run(*overrides: str) -> Path:
        shared = [f"run.out={tmp_path / 'run'}", "run.updates=2", "run.batch_size=2"]
        status, _, error = run_script(train_dvae.main, *shared, *overrides)
        assert status == 0, error
        return tmp_path / "run" / "tokenizer"

    return run


@pytest.fixture
def grey(toy, monkeypatch: pytest.MonkeyPatch) -> None:
    toy("toy_tokenizer", TOKENIZER)
    monkeypatch.setitem(KINDS, "grey", ("toy_tokenizer:GreyConfig", "toy_tokenizer:Grey"))


def test_a_pattern_with_an_option_trains_and_samples(toy, monkeypatch) -> None:
    toy("toy_pattern", PATTERN)
    monkeypatch.setitem(PATTERNS.places, "knight", "toy_pattern:Knight")
    model = build(layers=["knight", "knight"], pattern_options={"knight": {"stride": 2}})
    assert vars(model.patterns[0].options) == {"stride": 2}
    tokens, codes = inputs(model)
    model.loss(tokens, codes).total.backward()
    assert all(p.grad is not None for p in model.blocks.parameters())
    sampled = generate(model, tokens, Sampling(top_k=1))
    with torch.inference_mode():
        assert torch.equal(model.logits(tokens, sampled.codes)[1].argmax(dim=-1), sampled.codes)


def test_a_tokenizer_trains_and_loads(grey, train, image_folder) -> None:
    folder = train("tokenizer=grey", "model.levels=6", f"data.path={image_folder}")
    tokenizer, saved = load_tokenizer(folder)
    assert type(tokenizer).__name__ == "Grey"
    assert saved.model.levels == tokenizer.vocab_size == 6


def test_a_source_has_options_of_its_own(grey, toy, train, monkeypatch, run_script) -> None:
    toy("toy_source", SOURCE)
    monkeypatch.setitem(SOURCES.places, "plain", "toy_source:PlainConfig")
    train("tokenizer=grey", "data.source=plain", "data.colour=blue")
    status, _, error = run_script(train_dvae.main, "data.source=plain", "data.path=x")
    assert status == 2
    assert "data.path is no option of data.source=plain" in error


def test_an_optimiser_moves_weights(grey, toy, train, image_folder, monkeypatch) -> None:
    toy("toy_optimiser", OPTIMISER)
    monkeypatch.setitem(OPTIMISERS.places, "sgd", "toy_optimiser:make")
    chosen = ("tokenizer=grey", f"data.path={image_folder}", "optimiser.name=sgd")
    folder = train(*chosen, "optimiser.lr=0.5")
    assert load_tokenizer(folder)[0].state_dict()["gain"] != 1


def test_a_metric_has_an_interval_and_a_ceiling(toy, monkeypatch) -> None:
    toy("toy_metric", METRIC)
    monkeypatch.setitem(METRICS.places, "redness", "toy_metric:measure")
    images = [plain("red"), plain("blue"), plain("green")]
    black: list[Image.Image] = [Image.new("RGB", (12, 12)) for _ in images]
    held_out = HeldOutImages(["red", "blue", "green"], images, images)
    score = scores(colour_ranker(), black, held_out, resamples=5)["redness"]
    assert score.sampled.value == 0
    assert score.real.value == pytest.approx(np.mean([220, 40, 30]))
    assert score.real.low <= score.real.value <= score.real.high


def test_a_metric_of_reconstructions_has_a_value_of_each_image(toy, monkeypatch) -> None:
    toy("toy_reconstruction_metric", RECONSTRUCTION_METRIC)
    place = "toy_reconstruction_metric:measure"
    monkeypatch.setitem(RECONSTRUCTION_METRICS.places, "brighter", place)
    tokenizer = tiny_model().tokenizer
    images = [to_array(plain(colour, 16)) for colour in COLOURS]
    found = measure_reconstructions(tokenizer, images, None, batch_size=2)["brighter"]
    pixels = to_tensor(images)
    expected = (tokenizer.reconstruct(pixels) - pixels).mean(dim=(1, 2, 3))
    assert found == pytest.approx(expected.numpy(), abs=1e-5)
