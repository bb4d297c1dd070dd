"""All figures of a dual encoder: how it finds and tells apart held-out pairs."""

import numpy as np
import torch

from dalle_base.common.errors import UserError
from dalle_base.data.sources.captioned import captioned_pair
from dalle_evaluation.held_out import open_data
from dalle_evaluation.intervals import Interval, mean_interval
from dalle_evaluation.report import Report
from dalle_evaluation.request import Evaluation
from dual_encoder.checkpoint import load_dual_encoder
from dual_encoder.config import LossConfig
from dual_encoder.examples import held_out_pairs
from dual_encoder.metrics import RECALLS, classified, found_ranks, held_out_loss, rank_figures


def evaluate_dual_encoder(request: Evaluation, device: torch.device) -> Report:
    """Measure retrieval and classification on a config's held-out pairs. Raises `UserError`."""
    if not request.config:
        raise UserError("a dual encoder is measured on a config's held-out pairs: give --config")
    if request.checker or request.scores or request.judging:
        raise UserError("--checker, --scores and --judge are for text-to-image models")
    ranker = load_dual_encoder(request.model).to(device)
    size = ranker.model.config.image_size
    pairs = held_out_pairs(captioned_pair(*open_data(request))[1], size, request.images)
    text = ranker.text_features(pairs.captions)
    images = ranker.image_features(pairs.images)
    found = found_ranks(images, text, pairs.captions)
    figures: dict[str, Interval | float] = {
        "held_out_loss": held_out_loss(ranker, images, text, pairs, LossConfig()),
        **rank_figures(found),
    }
    hits = {
        f"{name}_recall_{k}": (ranks <= k).double().numpy()
        for name, ranks in found.items()
        for k in RECALLS
    }
    figures |= {name: mean_interval(each, request.resamples) for name, each in hits.items()}
    figures["mean_recall"] = mean_interval(np.mean([*hits.values()], axis=0), request.resamples)
    right = classified(images, text, pairs.captions).double().numpy()
    figures["classification_of_100"] = mean_interval(right, request.resamples)
    return Report(figures)
