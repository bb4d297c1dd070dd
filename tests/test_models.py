"""The shipped models: small enough to ship, and as good as their cards say."""

from pathlib import Path

import pytest
import torch
from safetensors import safe_open

from corpora.shapes import described_scene, example
from dual_encoder.checkpoint import load_dual_encoder
from dual_encoder.metrics import classification

MODELS = Path(__file__).parents[1] / "models"


def size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def test_they_are_small_and_in_bfloat16() -> None:
    assert size(MODELS) <= 30e6
    for model in ("emoji", "shapes"):
        assert size(MODELS / model / "reranker") <= 10e6
        assert (MODELS / model / "README.md").is_file()
    for path in MODELS.rglob("*.safetensors"):
        with safe_open(path, framework="pt") as file:
            types = {file.get_tensor(name).dtype for name in file.keys()}  # noqa: SIM118
        assert types == {torch.bfloat16}, path


@pytest.mark.slow
def test_the_shapes_reranker_tells_scenes_apart() -> None:
    ranker = load_dual_encoder(MODELS / "shapes/reranker")
    pairs = [example("test", 7, i) for i in range(200)]
    captions = [described_scene("test", 7, i)[1] for i in range(200)]
    images = ranker.image_features([picture for picture, _ in pairs])
    words = ranker.text_features(captions)
    assert classification(images, words, captions) > 0.8
