"""The Python API: what it returns, and that it is what its parts return."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from dalle.checkpoint import SavedTransformer, load_text_to_image
from dalle.config import Sampling, SamplingDefaults
from dalle.generate import TO_SAMPLE, Progress
from dalle.likelihood import log_likelihood
from dalle.memory import fitting_batch
from dalle.text_to_image import Samples, TextToImage, join
from dalle_base.common.errors import UserError
from dual_encoder.config import DualEncoderConfig, TowerConfig
from dual_encoder.model import DualEncoder
from dual_encoder.rank import similarities
from dual_encoder.ranker import Ranker

MODELS = Path(__file__).parents[1] / "models"


@pytest.fixture(scope="module")
def model(toy: Path) -> TextToImage:
    """A tiny model that has learned nothing."""
    return load_text_to_image(toy)


@pytest.fixture(scope="module")
def shapes() -> TextToImage:
    """The shapes model, sampled as the paper samples where a test says nothing else."""
    return replace(load_text_to_image(str(MODELS / "shapes")), sampling=SamplingDefaults())


def likelihoods(model: TextToImage, captions: list[str], codes: torch.Tensor) -> torch.Tensor:
    return log_likelihood(model.transformer, model.tokens(captions), codes)


def test_images_codes_likelihoods_and_seeds_of_several_captions(model: TextToImage) -> None:
    captions = ["a red circle", "a large blue square"]
    samples = model.generate(captions, candidates=3, seed=4, first=2)
    assert samples.captions == [captions[0]] * 3 + [captions[1]] * 3
    assert samples.candidates == [2, 3, 4] * 2
    assert samples.seeds == [4] * 6
    assert samples.codes.shape == (6, 16)
    assert all(image.size == (16, 16) for image in samples.images)
    expected = likelihoods(model, samples.captions, samples.codes)
    torch.testing.assert_close(samples.log_likelihood, expected, rtol=0, atol=1e-3)
    alone = model.generate(captions[1], seed=4, first=3)
    assert torch.equal(alone.codes[0], samples.codes[4])
    difference = np.asarray(alone.images[0], np.int16) - np.asarray(samples.images[4])
    assert np.abs(difference).max() <= 2  # decoded beside others, it may be rounded


def test_memory_decides_the_batches_and_nothing_else(model: TextToImage) -> None:
    whole = model.generate("a red circle", candidates=5)
    one, two = (model.transformer.cache_bytes(1, n) for n in (1, 2))
    sampling = Sampling(candidates=5, batch_size=fitting_batch(model.transformer, two))
    parts = list(model.batches("a red circle", sampling))
    assert [len(part.images) for part in parts] == [2, 2, 1]
    assert torch.equal(join(parts).codes, whole.codes)
    assert join(parts).candidates == whole.candidates
    with pytest.raises(UserError, match="caches take"):
        fitting_batch(model.transformer, one - 1)


def test_the_likelihood_of_an_image_tells_its_caption_from_others(shapes: TextToImage) -> None:
    caption = "a large red circle"
    image = shapes.generate(caption, top_k=1).images[0]
    captions = [caption, "a large green circle", "a small red star"]
    values = likelihoods(shapes, captions, shapes.codes([image] * 3))
    assert values.argmax() == 0
    assert values.shape == (3,)


def test_what_is_still_to_be_sampled_is_grey(model: TextToImage) -> None:
    seen: list[torch.Tensor] = []

    def watch(at: Progress) -> None:
        if at.step == 8:
            seen.append(at.codes.clone())

    (samples,) = model.batches("a large blue square", Sampling(), progress=watch)
    codes = seen[0]
    assert (codes[0, 8:] == TO_SAMPLE).all()
    assert torch.equal(codes[:, :8], samples.codes[:, :8])
    half = np.asarray(model.images(codes)[0])
    assert (half[8:] == half[-1, -1]).all()
    assert not (half[:8] == half[-1, -1]).all()


def test_images_of_any_size_have_codes(shapes: TextToImage) -> None:
    codes = shapes.codes([Image.new("RGB", (200, 90), "red"), Image.new("RGB", (64, 64))])
    assert codes.shape == (2, 64)
    again = shapes.codes(shapes.images(codes))
    assert (again == codes).float().mean() > 0.5


def test_a_folder_says_how_its_model_is_sampled(shapes: TextToImage) -> None:
    """Those from before it did: with guidance, where they were trained for it."""
    assert shapes.sampling.guidance_scale == 1
    assert load_text_to_image(MODELS / "emoji").sampling.temperature == 0.25
    for text_drop, scale in ((0.1, 4), (0.0, 1)):
        stored = SavedTransformer.read({"model": {"text_drop": text_drop}}, "config.yaml")
        assert stored.sampling == SamplingDefaults(guidance_scale=scale)
    with pytest.raises(UserError, match="trained without"):
        shapes.generate("a red circle", guidance_scale=2)


def test_fewer_bits_sample_too(toy: Path) -> None:
    small = load_text_to_image(toy, precision="bfloat16")
    assert small.transformer.start.dtype == torch.bfloat16
    assert small.generate("a red circle", candidates=2).codes.shape == (2, 16)
    with pytest.raises(UserError, match="precision is 'half'"):
        load_text_to_image(toy, precision="half")


def test_each_image_is_ranked_under_its_own_caption(model: TextToImage) -> None:
    samples = model.generate(["a red circle", "a large blue square"], candidates=2)
    with pytest.raises(UserError, match="has no reranker"):
        replace(model, reranker=None).rank(samples)
    torch.manual_seed(0)
    config = DualEncoderConfig(
        *(
            8,
            64,
            16,
            TowerConfig(16, 1, 2),
            model.text_tokenizer.vocab_size + 2,
            30,
            TowerConfig(16, 1, 2),
        )
    )
    ranker = Ranker(DualEncoder(config).eval(), model.text_tokenizer)
    ranking = replace(model, reranker=ranker)
    scores = ranking.rank(samples)
    for i, image in enumerate(samples.images):
        expected = similarities(ranker, [image], [samples.captions[i]])[:, 0]
        torch.testing.assert_close(scores[i : i + 1], expected, rtol=1e-4, atol=1e-4)
    order = scores.argsort(descending=True).tolist()
    best = samples.select(order[:3])
    assert best.candidates == [samples.candidates[i] for i in order[:3]]
    assert torch.equal(best.codes, samples.codes[order[:3]])
    assert torch.equal(ranking.rank(best), scores[order[:3]])
    weighted = scores + 0.3 * samples.log_likelihood
    assert torch.equal(ranking.rank(samples, likelihood_weight=0.3), weighted)
    own = replace(ranking, sampling=SamplingDefaults(likelihood_weight=0.3))
    assert torch.equal(own.rank(samples), weighted)
    assert torch.equal(own.rank(samples, likelihood_weight=0), scores)


def test_sampling_is_one_object_or_its_fields(model: TextToImage) -> None:
    by_field = model.generate("a red circle", candidates=2, seed=3, temperature=0.5)
    by_object = model.generate("a red circle", Sampling(candidates=2, seed=3, temperature=0.5))
    assert isinstance(by_object, Samples)
    assert torch.equal(by_field.codes, by_object.codes)
    several = model.generate(["a red circle", "a blue star"], Sampling(seed=(3, 7)))
    assert several.seeds == [3, 7]
    assert torch.equal(several.codes[0], model.generate("a red circle", seed=3).codes[0])
    assert torch.equal(several.codes[1], model.generate("a blue star", seed=7).codes[0])
    with pytest.raises(UserError, match="3 seeds for 1 captions"):
        model.generate("a red circle", seed=(1, 2, 3))


def test_models_move_together(model: TextToImage) -> None:
    assert model.to("cpu") is model
    assert model.device == torch.device("cpu")
    assert model.reranker
    assert model.reranker.device == model.device
