"""Checkpoint folders: whole or not at all, and clear errors for damaged and foreign ones."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from dvae.checkpoint import SavedTokenizer, load_tokenizer, save_tokenizer
from dvae.model import DiscreteVAE, DVAEConfig
from dvae.networks import NetworkConfig
from training.checkpoint import read_training_state, write_folder
from training.errors import UserError


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


def test_a_failed_write_leaves_the_old_folder_and_no_litter(tmp_path: Path) -> None:
    target = tmp_path / "checkpoint"
    write_folder(target, lambda folder: (folder / "a").touch())

    def full_disk(folder: Path) -> None:
        (folder / "a").write_text("new")
        raise OSError(28, "No space left on device")

    with pytest.raises(UserError, match="the disk is full"):
        write_folder(target, full_disk)
    assert (target / "a").read_text() == ""
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint"]
