"""What belongs together is checked together: files of a folder, a model and its tokenizer."""

import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from builders import build
from rankers import untrained

import dalle.fingerprints
from dalle.checkpoint import load_text_to_image, save_text_to_image, tokenizer_of
from dalle.text_to_image import TextToImage
from dalle_base.common.config import read_yaml
from dalle_base.common.errors import UserError
from dalle_base.common.fingerprints import FINGERPRINTS, check_seal, file_fingerprint, seal
from dalle_base.data.text_training import train_text
from dual_encoder.checkpoint import load_dual_encoder, save_dual_encoder
from dvae.checkpoint import load_tokenizer, tokenizer_fingerprint
from dvae.config import DVAEConfig, NetworkConfig
from dvae.kinds import SavedTokenizer
from dvae.model import DiscreteVAE

MODELS = Path(__file__).parents[1] / "models"
WEIGHTS, CONFIG, TEXT = "model.safetensors", "config.yaml", "text.json"


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A whole model's folder, with its tokenizer and a reranker."""
    place = tmp_path_factory.mktemp("saved") / "model"
    config = DVAEConfig(8, 4, 13, NetworkConfig(width=8, groups=2, blocks=1, decoder_init=8))
    transformer = build(text_vocab=300, rows=4)
    text = train_text(["a red heart", "a blue heart"], 300)
    model = TextToImage(transformer, text, DiscreteVAE(config).eval())
    save_text_to_image(place, model, SavedTokenizer("dvae", config))
    save_dual_encoder(place / "reranker", untrained())
    return place


@pytest.fixture
def folder(saved: Path, tmp_path: Path) -> Path:
    """A copy of a whole model's folder, to be spoiled."""
    return Path(shutil.copytree(saved, tmp_path / "model"))


def flip(path: Path) -> None:
    """Change one bit of the last numbers, which no reader would notice."""
    content = bytearray(path.read_bytes())
    content[-2] ^= 1
    path.write_bytes(content)


LOADERS: dict[str, Callable[[Path], object]] = {
    ".": load_text_to_image,
    "tokenizer": load_tokenizer,
    "reranker": load_dual_encoder,
}


@pytest.mark.parametrize("part", LOADERS)
def test_flipped_bits_are_refused_in_a_line(folder: Path, part: str) -> None:
    LOADERS[part](folder / part)
    flip(folder / part / WEIGHTS)
    for load, place in ((LOADERS[part], folder / part), (load_text_to_image, folder)):
        with pytest.raises(UserError, match=r"copy the whole folder again") as found:
            load(place)
        assert "\n" not in str(found.value)


@pytest.mark.parametrize("part", [".", "reranker"])
def test_a_swapped_text_encoding_is_refused(folder: Path, part: str) -> None:
    """Of the same size: the model would read other words."""
    train_text(["a green tree", "a white tree"], 300).save(folder / part / TEXT)
    with pytest.raises(UserError, match=r"text\.json is not the file that was saved here"):
        load_text_to_image(folder)


@pytest.mark.parametrize(
    ("part", "old", "new"),
    [
        (".", "depth: 2", "depth: 1"),
        (".", "heads: 2", "heads: 4"),
        ("tokenizer", "bottleneck", "bottleneck"),
        ("reranker", "activation: ", "activation: gelu #"),
    ],
)
def test_an_edited_config_is_refused_unless_it_says_the_same(
    folder: Path, part: str, old: str, new: str
) -> None:
    path = folder / part / CONFIG
    text = path.read_text()
    assert old in text
    path.write_text("# a remark\n" + yaml.safe_dump(yaml.safe_load(text), sort_keys=True))
    load_text_to_image(folder)
    path.write_text(text.replace("\n", "\r\n"))  # as version control may write it
    load_text_to_image(folder)
    if old == new:
        return
    path.write_text(text.replace(old, new))
    with pytest.raises(UserError) as found:
        load_text_to_image(folder)
    assert "\n" not in str(found.value)


def test_a_change_on_purpose_is_taken_after_the_command_that_the_message_names(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = folder / TEXT
    path.write_text(path.read_text().replace("{", "{ ", 1))
    with pytest.raises(UserError, match=r"text\.json is not the file") as found:
        load_text_to_image(folder)
    command = f"python -m dalle.fingerprints {folder}"
    assert command in str(found.value)
    monkeypatch.setattr(sys, "argv", command.split()[2:])
    assert dalle.fingerprints.main() == 0
    assert capsys.readouterr().out.count("wrote") == 3
    load_text_to_image(folder)
    monkeypatch.setattr(sys, "argv", ["x", str(folder.parent / "nowhere")])
    assert dalle.fingerprints.main() == 2


def test_how_a_model_is_sampled_may_be_edited(folder: Path) -> None:
    path = folder / CONFIG
    path.write_text(path.read_text().replace("temperature: 1.0", "temperature: 2.0"))
    assert load_text_to_image(folder).sampling.temperature == 2


def test_folders_of_earlier_versions_are_read(folder: Path) -> None:
    for path in folder.rglob(FINGERPRINTS):
        path.unlink()
    flip(folder / WEIGHTS)
    load_text_to_image(folder)


@pytest.mark.parametrize("content", ["", "[]", "{", "[" * 100_000])
def test_damaged_fingerprints_are_named(folder: Path, content: str) -> None:
    (folder / FINGERPRINTS).write_text(content)
    with pytest.raises(UserError, match=r"fingerprints\.json is damaged"):
        load_text_to_image(folder)


def test_only_what_was_saved_is_compared(tmp_path: Path) -> None:
    (tmp_path / TEXT).write_text("{}")
    seal(tmp_path)
    assert json.loads((tmp_path / FINGERPRINTS).read_text()) == {
        TEXT: file_fingerprint(tmp_path / TEXT)
    }
    (tmp_path / "README.md").write_text("x")
    (tmp_path / CONFIG).write_text("x")
    check_seal(tmp_path)


@pytest.mark.parametrize("name", ["emoji", "shapes"])
def test_the_shipped_models_have_fingerprints(name: str, tmp_path: Path) -> None:
    for part in LOADERS:
        place = MODELS / name / part
        stored = json.loads((place / FINGERPRINTS).read_text())
        assert {CONFIG, WEIGHTS, "config"} <= set(stored)
        check_seal(place)
    copy = tmp_path / "copy"
    shutil.copytree(MODELS / name, copy)
    config = read_yaml(copy / CONFIG)
    config["model"]["dropout"] = 0.5
    (copy / CONFIG).write_text(yaml.safe_dump(config))
    with pytest.raises(UserError, match=r"python -m dalle\.fingerprints"):
        load_text_to_image(copy)


def test_a_model_names_the_tokenizer_whose_codes_it_has_learned(folder: Path) -> None:
    tokenizer, _ = load_tokenizer(folder / "tokenizer")
    assert tokenizer_of(folder) == tokenizer_fingerprint(tokenizer)
    assert tokenizer_of(folder / "tokenizer") == ""
