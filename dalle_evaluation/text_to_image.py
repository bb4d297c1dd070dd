"""All figures of a text-to-image model: its tokenizer's, held-out losses, samples, the judge."""

from dataclasses import replace
from typing import Any, NamedTuple

import torch
from PIL import Image

from dalle.checkpoint import RERANKER, load_text_to_image
from dalle.config import Sampling
from dalle.examples import held_out_examples
from dalle.generate import check_sampling
from dalle.text_to_image import TextToImage
from dalle_base.common.errors import UserError
from dalle_base.common.report import say
from dalle_base.data.batches import ImageDataset, all_images, some_of
from dalle_base.data.sources.base import Source
from dalle_base.data.sources.captioned import captioned_pair
from dalle_evaluation.drawings import draw_nats, draw_nearest
from dalle_evaluation.exact_match import (
    exact_match_of_reconstructions,
    exact_match_of_samples,
    splits_of,
)
from dalle_evaluation.held_out import check_asked, load_lite0, open_data
from dalle_evaluation.inception import Inception
from dalle_evaluation.intervals import Interval, Score, Values, ratio
from dalle_evaluation.judging import ask_judge, load_judge
from dalle_evaluation.nats import measure_nats
from dalle_evaluation.nearest import TrainingImages, open_training, spaces_of
from dalle_evaluation.reconstructions import image_of
from dalle_evaluation.report import Report, with_intervals
from dalle_evaluation.request import Evaluation
from dalle_evaluation.sampled import sample
from dalle_evaluation.scores import Beside, HeldOutImages, choose_held_out, fid, scores
from dalle_evaluation.tokenizer import on_held_out_images
from dual_encoder.checkpoint import load_dual_encoder
from dual_encoder.ranker import Ranker

CANDIDATES = 4
"""Candidates of a caption that are compared for diversity."""
Sources = tuple[Source, Source]
"""Of training and of held-out images."""


class Scorers(NamedTuple):
    """What samples are scored with and on."""

    ranker: Ranker
    inception: Inception | None
    chosen: HeldOutImages


def evaluate_text_to_image(request: Evaluation, device: torch.device) -> Report:
    """Measure all that is asked for of a text-to-image model.

    Raises `UserError` before anything that takes long.
    """
    check_asked(request)
    model = load_text_to_image(request.model, device=device)
    sampling = request.sampling(model.sampling)
    check_sampling(model.transformer, sampling)
    if request.candidates > 1 and model.reranker is None:
        raise UserError(f"--candidates needs a reranker, and {request.model} has none")
    sources = open_data(request) if request.config else None
    pairs = captioned_pair(*sources)[1] if sources else None
    scorers = None
    if pairs is not None and request.scores:
        scorers = load_scorers(request, model, pairs)
    lite0 = load_lite0(request.judging is not None, device) if sources else None
    judge = load_judge(request, model.tokenizer.image_size, sources, lite0, device)
    figures: dict[str, Interval | float] = {}
    scored: dict[str, Score] = {}
    more: dict[str, Any] = {}
    if sources and pairs is not None:
        figures |= on_held_out_images(request, model.tokenizer, sources[1], lite0)
        nats, more["nats_by_position"] = on_held_out_pairs(request, model, pairs)
        figures |= with_intervals(nats, request.resamples)
    if request.checker:
        figures |= on_scenes(request, model, sampling)
    if sources and scorers:
        scored = on_samples(request, model, sampling, sources, scorers)
    return Report(figures, scored, ask_judge(request, judge, model), more)


def load_scorers(request: Evaluation, model: TextToImage, held_out: Source) -> Scorers:
    """Return what scores are measured with and on, before anything is sampled.

    Raises `UserError` for scores that cannot be had.
    """
    folder = request.ranker or request.model / RERANKER
    if not folder.is_dir():
        raise UserError(f"no dual encoder {folder} to score with: name one with --ranker")
    inception = Inception(request.inception) if request.inception else None
    ranker = load_dual_encoder(folder).to(model.device)
    chosen = choose_held_out(held_out, request.scores, model.tokenizer.image_size)
    return Scorers(ranker, inception, chosen)


def on_held_out_pairs(
    request: Evaluation, model: TextToImage, held_out: Source
) -> tuple[dict[str, Values], list[list[float]]]:
    """Measure nats a code and a text token; return them also by position of the grid, and draw it.

    Every code counts alike, and so does every text token.
    """
    length = model.transformer.config.text_length
    pairs = held_out_examples(
        held_out, model.text_tokenizer, length, model.tokenizer, request.images
    )
    nats = measure_nats(model.transformer, *pairs)
    grid = nats.image.mean(dim=0).view(model.tokenizer.rows, model.tokenizer.columns)
    if request.out:
        draw_nats(request.out, grid.numpy())
    figures: dict[str, Values] = {
        "held_out_image_loss": nats.image.mean(dim=1).numpy(),
        "held_out_text_loss": ratio(nats.text.numpy(), nats.text_tokens.numpy()),
    }
    return figures, grid.tolist()


def on_scenes(request: Evaluation, model: TextToImage, sampling: Sampling) -> dict[str, Interval]:
    """Sample scenes and check them, seen and held-out combinations apart, beside the ceiling."""
    figures: dict[str, Interval] = {}
    sampling = replace(sampling, candidates=request.candidates)
    for split, before in splits_of(request.split):
        for found in (
            exact_match_of_reconstructions(model.tokenizer, split, request.checker),
            exact_match_of_samples(model, sampling, split, request.checker),
        ):
            figures |= with_intervals(found, request.resamples, before)
    return figures


def on_samples(
    request: Evaluation,
    model: TextToImage,
    sampling: Sampling,
    sources: Sources,
    scorers: Scorers,
) -> dict[str, Score]:
    """Sample images of held-out captions and score them, beside the real ones."""
    ranker, inception, chosen = scorers
    images = sample(model, chosen.captions, sampling).images
    count = min(request.diversity, len(images))
    candidates = sample_candidates(model, chosen.captions[:count], sampling, images)
    training = open_nearest(request, model, sources, ranker)
    near = training.nearest(images) if training else None
    if training and near and request.out:
        draw_nearest(request.out, images, near, training)
    beside = Beside(candidates, near, training.held_out if training else None)
    found = scores(ranker, images, chosen, request.resamples, beside=beside)
    if inception:
        found["fid"] = fid(inception, images, chosen, request.resamples)
    number = len(chosen.reference)
    print(
        f"scores of {len(images)} captions, Fréchet distances between {number} and {number} "
        "images; [95 % interval]"
    )
    return found


def sample_candidates(
    model: TextToImage, captions: list[str], sampling: Sampling, images: list[Image.Image]
) -> list[list[Image.Image]]:
    """Return CANDIDATES of each caption; the first of each are `images`, sampled already."""
    if not captions:
        return []
    how = replace(sampling, first=1, candidates=CANDIDATES - 1)
    further = sample(model, captions, how, "sampling further candidates").images
    each = CANDIDATES - 1
    return [[images[i], *further[each * i : each * (i + 1)]] for i in range(len(captions))]


def open_nearest(
    request: Evaluation, model: TextToImage, sources: Sources, ranker: Ranker
) -> TrainingImages | None:
    """Return the training images to look for the nearest in, or None where there are none."""
    if not request.nearest:
        return None
    training, held_out = (ImageDataset(s, model.tokenizer.image_size, None) for s in sources)
    if not training.count:
        say("nearest training images: not looked for (a stream cannot be searched)")
        return None
    count = min(request.training_images or training.count, training.count)
    if count < training.count:
        say(f"nearest training images: among {count} of {training.count} (--training-images)")
        training = ImageDataset(some_of(sources[0], count), model.tokenizer.image_size, None)
    known = [image_of(pixels) for pixels in all_images(held_out, request.images)]
    return open_training(model.tokenizer, training, known, spaces_of(ranker))
