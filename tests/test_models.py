"""The shipped models: small enough to ship, and as good as their cards say."""

import shutil
from pathlib import Path

import pytest
import torch
import yaml
from safetensors import safe_open

from dalle.checkpoint import load_text_to_image, save_text_to_image
from dalle.patterns.conv import Conv
from dalle_base.common.config import read_yaml
from dalle_base.data.shapes import described_scene, example
from dual_encoder.checkpoint import load_dual_encoder
from dual_encoder.metrics import classification
from dvae.checkpoint import load_tokenizer

MODELS = Path(__file__).parents[1] / "models"


def size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def test_they_are_small_and_in_bfloat16() -> None:
    assert size(MODELS) <= 64e6
    for model in ("emoji", "shapes"):
        assert size(MODELS / model / "reranker") <= 10e6
        assert (MODELS / model / "README.md").is_file()
    for path in MODELS.rglob("*.safetensors"):
        with safe_open(path, framework="pt") as file:
            types = {file.get_tensor(name).dtype for name in file.keys()}  # noqa: SIM118
        assert types == {torch.bfloat16}, path


@pytest.mark.parametrize("name", ["emoji", "shapes"])
def test_their_window_is_5_codes_wide_whatever_the_key_is_called(name: str) -> None:
    model = load_text_to_image(MODELS / name)
    assert model.transformer.config.pattern_options == {"conv": {"kernel": 5}}
    windows = [p for p in model.transformer.patterns if isinstance(p, Conv)]
    assert windows
    assert all(pattern.options.kernel == 5 for pattern in windows)


def test_a_folder_with_the_key_of_before_is_the_same_model(tmp_path: Path) -> None:
    """`conv_kernel` was a field of its own before patterns owned their options."""
    model, old = MODELS / "shapes", tmp_path / "old"
    shutil.copytree(model, old, ignore=shutil.ignore_patterns("reranker"))
    written = read_yaml(model / "config.yaml")
    written["model"].pop("pattern_options", None)
    written["model"]["conv_kernel"] = 5
    config = yaml.safe_dump(written)
    (old / "config.yaml").write_text(config, encoding="utf-8")
    new, again = load_text_to_image(model), load_text_to_image(old)
    assert again.transformer.config == new.transformer.config
    tokens = new.tokens(["a red star"])
    codes = torch.arange(64)[None]
    ours, theirs = (model.transformer.logits(tokens, codes)[1] for model in (new, again))
    assert torch.equal(ours, theirs)
    # It is saved by the new key, which is read back.
    save_text_to_image(tmp_path / "new", again, load_tokenizer(old / "tokenizer")[1])
    assert "conv_kernel" not in (tmp_path / "new" / "config.yaml").read_text(encoding="utf-8")
    saved = load_text_to_image(tmp_path / "new")
    assert saved.transformer.config == new.transformer.config


@pytest.mark.slow
def test_the_shapes_reranker_tells_scenes_apart() -> None:
    ranker = load_dual_encoder(MODELS / "shapes/reranker")
    pairs = [example("test", 7, i) for i in range(200)]
    captions = [described_scene("test", 7, i)[1] for i in range(200)]
    images = ranker.image_features([image for image, _ in pairs])
    texts = ranker.text_features(captions)
    assert classification(images, texts, captions) > 0.8
