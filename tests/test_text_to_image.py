"""The Python API on a shipped model: what it returns, and that it is what its parts return."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from dalle.checkpoint import load_text_to_image
from dalle.generate import DRAW, Progress
from dalle.text_to_image import TextToImage, join, select
from dual_encoder.checkpoint import Ranker
from dual_encoder.model import DualEncoder, DualEncoderConfig, TowerConfig
from dual_encoder.rank import rank
from training.errors import UserError

MODELS = Path(__file__).parents[1] / "models"


@pytest.fixture(scope="module")
def model() -> TextToImage:
    return load_text_to_image(str(MODELS / "shapes"))


def test_pictures_codes_likelihoods_and_seeds_of_several_captions(model: TextToImage) -> None:
    captions = ["a red circle", "a large blue square"]
    drawn = model.generate(captions, candidates=3, seed=4, first=2)
    assert drawn.captions == [captions[0]] * 3 + [captions[1]] * 3
    assert drawn.candidates == [2, 3, 4] * 2
    assert drawn.seeds == [4] * 6
    assert drawn.codes.shape == (6, 64)
    assert all(picture.size == (64, 64) for picture in drawn.pictures)
    expected = model.log_likelihood(drawn.captions, drawn.codes)
    torch.testing.assert_close(drawn.log_likelihood, expected, rtol=0, atol=1e-3)
    alone = model.generate(captions[1], seed=4, first=3)
    assert torch.equal(alone.codes[0], drawn.codes[4])
    difference = np.asarray(alone.pictures[0], np.int16) - np.asarray(drawn.pictures[4])
    assert np.abs(difference).max() <= 2  # decoded beside others, it may be rounded


def test_memory_decides_the_batches_and_nothing_else(model: TextToImage) -> None:
    whole = model.generate("a red circle", 5)
    one, two = (model.transformer.cache_bytes(1, n) for n in (1, 2))
    parts = list(model.batches("a red circle", 5, memory=two))
    assert [len(part.pictures) for part in parts] == [2, 2, 1]
    assert torch.equal(join(parts).codes, whole.codes)
    assert join(parts).candidates == whole.candidates
    with pytest.raises(UserError, match="caches take"):
        model.generate("a red circle", memory=one - 1)


def test_the_likelihood_of_a_picture_tells_its_caption_from_others(model: TextToImage) -> None:
    caption = "a large red circle"
    picture = model.generate(caption, top_k=1).pictures[0]
    captions = [caption, "a large green circle", "a small red star"]
    values = model.log_likelihood(captions, [picture] * 3)
    assert values.argmax() == 0
    assert values.shape == (3,)


def test_what_is_still_to_be_drawn_is_grey(model: TextToImage) -> None:
    seen: list[torch.Tensor] = []

    def watch(at: Progress) -> None:
        if at.step == 8:
            seen.append(at.codes.clone())

    drawn = model.generate("a large blue square", progress=watch)
    codes = seen[0]
    assert (codes[0, 8:] == DRAW).all()
    assert torch.equal(codes[:, :8], drawn.codes[:, :8])
    half = np.asarray(model.pictures(codes)[0])
    assert (half[8:] == half[-1, -1]).all()
    assert not (half[:8] == half[-1, -1]).all()


def test_pictures_of_any_size_have_codes(model: TextToImage) -> None:
    codes = model.codes([Image.new("RGB", (200, 90), "red"), Image.new("RGB", (64, 64))])
    assert codes.shape == (2, 64)
    again = model.codes(model.pictures(codes))
    assert (again == codes).float().mean() > 0.5


def test_guidance_is_used_where_the_model_was_trained_for_it(model: TextToImage) -> None:
    assert model.guidance == 1
    assert load_text_to_image(MODELS / "emoji").guidance == 4
    with pytest.raises(UserError, match="trained without"):
        model.generate("a red circle", guidance=2)


def test_fewer_bits_draw_too() -> None:
    small = load_text_to_image(MODELS / "shapes", precision="bfloat16")
    assert small.transformer.start.dtype == torch.bfloat16
    assert small.generate("a red circle", 2).codes.shape == (2, 64)
    with pytest.raises(UserError, match="precision is 'half'"):
        load_text_to_image(MODELS / "shapes", precision="half")


def test_each_picture_is_ranked_under_its_own_caption(model: TextToImage) -> None:
    drawn = model.generate(["a red circle", "a large blue square"], 2)
    with pytest.raises(UserError, match="has no reranker"):
        model._replace(reranker=None).rank(drawn)
    torch.manual_seed(0)
    config = DualEncoderConfig(
        *(8, 64, 16, TowerConfig(16, 1, 2), model.text.vocab_size + 2, 30, TowerConfig(16, 1, 2))
    )
    ranker = Ranker(DualEncoder(config).eval(), model.text)
    ranking = model._replace(reranker=ranker)
    scores = ranking.rank(drawn)
    for i, picture in enumerate(drawn.pictures):
        expected = rank(ranker, [picture], drawn.captions[i])
        torch.testing.assert_close(scores[i : i + 1], expected, rtol=1e-4, atol=1e-4)
    order = scores.argsort(descending=True).tolist()
    best = select(drawn, order[:3])
    assert best.candidates == [drawn.candidates[i] for i in order[:3]]
    assert torch.equal(best.codes, drawn.codes[order[:3]])
    assert torch.equal(ranking.rank(best), scores[order[:3]])
