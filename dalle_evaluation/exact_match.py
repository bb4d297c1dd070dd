"""Exact match of scenes of shapes with their captions, by the checker that reads images back."""

from dalle.config import Sampling
from dalle.text_to_image import TextToImage
from dalle_base.data.shapes import check, described_scene, example, summarise
from dalle_base.data.shapes.words import Split
from dalle_evaluation.reconstructions import reconstructions
from dalle_evaluation.sampled import sample
from dvae.tokenizer import ImageTokenizer


def exact_match_of_reconstructions(
    tokenizer: ImageTokenizer, split: Split, count: int
) -> dict[str, float]:
    """Check tokenizer reconstructions of scenes against their captions: the checker's ceiling."""
    images, captions = zip(*(example(split, 1, i) for i in range(count)), strict=True)
    results = [*map(check, reconstructions(tokenizer, images), captions)]
    return {f"reconstruction_{k}": v for k, v in summarise(results).items()}


def exact_match_of_samples(
    model: TextToImage, sampling: Sampling, split: Split, count: int
) -> dict[str, float]:
    """Sample one image for each held-out caption and check it."""
    captions = [described_scene(split, 1, i)[1] for i in range(count)]
    results = [*map(check, sample(model, captions, sampling).images, captions)]
    return {f"sample_{k}": v for k, v in summarise(results).items()}
