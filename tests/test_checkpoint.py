"""Checkpoint folders: whole or not at all, and clear errors for damaged and foreign ones."""

from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional as F

from dalle_base.common.checkpoint import read_training_state
from dalle_base.common.config import load_config
from dalle_base.common.errors import UserError
from dvae.checkpoint import load_tokenizer, save_tokenizer
from dvae.config import DVAEConfig, NetworkConfig
from dvae.kinds import KINDS, SavedTokenizer
from dvae.model import DiscreteVAE
from dvae.tokenizer import ImageTokenizer, LossReport
from train_dvae import TrainDVAE
from train_dvae import main as train


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    config = DVAEConfig(16, 4, 12, NetworkConfig(width=8, groups=3, blocks=1, decoder_init=8))
    torch.manual_seed(0)
    save_tokenizer(tmp_path / "tokenizer", DiscreteVAE(config), SavedTokenizer("dvae", config))
    return tmp_path / "tokenizer"


def test_a_tokenizer_comes_back_as_it_was_in_bfloat16(saved: Path) -> None:
    first, config = load_tokenizer(saved)
    assert config.model.codebook_size == 12
    save_tokenizer(saved, first, config)
    second, _ = load_tokenizer(saved)
    images = torch.rand(2, 3, 16, 16)
    assert torch.equal(first.reconstruct(images), second.reconstruct(images))


@dataclass
class PosterConfig:
    """Config of a tokenizer that is nothing like the dVAE."""

    shades: int = 4
    """Number of shades of grey."""


class Poster(ImageTokenizer):
    """One code, a shade of grey, for each 8x8 patch of 16x16 images."""

    def __init__(self, config: PosterConfig) -> None:
        super().__init__()
        self.vocab_size, self.image_size, self.rows, self.columns = config.shades, 16, 2, 2
        self.levels = nn.Parameter(torch.linspace(0, 1, config.shades))

    def encode(self, images: Tensor) -> Tensor:
        shade = F.avg_pool2d(images.mean(dim=1), 8)
        return (shade[..., None] - self.levels).abs().argmin(dim=-1)

    def decode(self, codes: Tensor) -> Tensor:
        shades = self.levels[codes][:, None].expand(-1, 3, -1, -1)
        return F.interpolate(shades, scale_factor=8.0).clamp(0, 1)

    def loss(self, images: Tensor, step: int) -> LossReport:
        return LossReport((self.decode(self.encode(images)) - images).square().mean())


def test_a_tokenizer_with_a_config_of_its_own_trains_and_comes_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(KINDS, "poster", (PosterConfig, Poster))
    out = tmp_path / "run"
    arguments = ["tokenizer=poster", "model.shades=6", "data.source=shapes", "data.count=8"]
    arguments += [f"run.out={out}", "run.updates=2", "run.batch_size=2", "held_out_images=4"]
    with pytest.raises(UserError, match=r"unknown key model\.grid"):
        load_config(TrainDVAE, "", [*arguments, "model.grid=2"])
    monkeypatch.setattr("sys.argv", ["train_dvae.py", *arguments])
    train()
    tokenizer, saved = load_tokenizer(out / "tokenizer")
    assert isinstance(tokenizer, Poster)
    assert saved.model == PosterConfig(shades=6)


def test_weights_may_be_read_by_whoever_may_read_the_config(saved: Path) -> None:
    modes = {path.name: path.stat().st_mode for path in saved.iterdir()}
    assert modes["model.safetensors"] == modes["config.yaml"]


def test_a_truncated_file_is_named(saved: Path) -> None:
    path = saved / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(UserError, match=r"model\.safetensors is damaged or truncated"):
        load_tokenizer(saved)


def test_foreign_folders_are_named(saved: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no checkpoint folder"):
        load_tokenizer(tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="not a checkpoint folder"):
        load_tokenizer(tmp_path / "empty")
    save_file({"other": torch.zeros(3)}, saved / "model.safetensors")
    with pytest.raises(UserError, match="not a checkpoint of this model: it lacks encoder"):
        load_tokenizer(saved)


def test_weights_of_another_size_name_the_tensor(saved: Path) -> None:
    config = saved / "config.yaml"
    config.write_text(config.read_text().replace("codebook_size: 12", "codebook_size: 13"))
    with pytest.raises(UserError, match=r"blocks\.output\.conv\.w is \[12"):
        load_tokenizer(saved)


def test_a_pickle_with_a_payload_never_runs(tmp_path: Path) -> None:
    class Payload:
        def __reduce__(self) -> tuple:
            return (Path.touch, (tmp_path / "ran",))

    torch.save({"step": Payload()}, tmp_path / "training.pt")
    with pytest.raises(UserError, match=r"training\.pt is damaged"):
        read_training_state(tmp_path)
    assert not (tmp_path / "ran").exists()
