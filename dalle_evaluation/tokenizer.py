"""All figures of an image tokenizer."""

import torch

from dalle_base.common.errors import UserError
from dalle_base.common.lite0 import Lite0
from dalle_base.common.report import say
from dalle_base.data.batches import ImageDataset, all_images
from dalle_base.data.sources.base import Source
from dalle_evaluation.drawings import draw_worst
from dalle_evaluation.exact_match import exact_match_of_reconstructions, splits_of
from dalle_evaluation.held_out import check_asked, load_lite0, open_data
from dalle_evaluation.intervals import Interval
from dalle_evaluation.judging import ask_judge, load_judge
from dalle_evaluation.reconstructions import measure_reconstructions
from dalle_evaluation.report import Report, with_intervals
from dalle_evaluation.request import Evaluation
from dvae.checkpoint import load_tokenizer
from dvae.tokenizer import ImageTokenizer


def evaluate_tokenizer(request: Evaluation, device: torch.device) -> Report:
    """Measure what a tokenizer leaves of held-out images, and of scenes that a checker reads.

    Raises `UserError` before anything that takes long.
    """
    check_asked(request)
    tokenizer = load_tokenizer(request.model)[0].to(device)
    if request.sheet or request.candidates > 1:
        raise UserError("--sheet and --candidates are for text-to-image models")
    if request.scores:
        raise UserError(f"--scores needs a text-to-image model, and {request.model} is a tokenizer")
    sources = open_data(request) if request.config else None
    lite0 = load_lite0(request.judging is not None, device) if sources else None
    judge = load_judge(request, tokenizer.image_size, sources, lite0, device)
    figures: dict[str, Interval | float] = {}
    if sources:
        figures |= on_held_out_images(request, tokenizer, sources[1], lite0)
    for split, before in splits_of(request.split) if request.checker else ():
        found = exact_match_of_reconstructions(tokenizer, split, request.checker)
        figures |= with_intervals(found, request.resamples, before)
    return Report(figures, judge=ask_judge(request, judge, tokenizer))


def on_held_out_images(
    request: Evaluation, tokenizer: ImageTokenizer, held_out: Source, lite0: Lite0 | None
) -> dict[str, Interval]:
    """Measure the reconstructions of held-out images, and draw the worst."""
    images = all_images(ImageDataset(held_out, tokenizer.image_size, None), request.images)
    values = measure_reconstructions(tokenizer, images, lite0)
    if "elb_bits" not in values:
        kind = type(tokenizer).__name__
        say(f"elb_bits: not measured (a tokenizer of this kind, {kind}, has no likelihood)")
    if request.out:
        draw_worst(request.out, tokenizer, images, values)
    return with_intervals(values, request.resamples)
