"""Ranking and classifying: how well pictures fit captions, and which of some labels fits best."""

import unicodedata
from collections.abc import Sequence

import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from dalle.text import Cut
from dual_encoder.checkpoint import Ranker
from dual_encoder.text import SPECIAL
from training.errors import UserError

TEMPLATES = ("{}",)
"""The label as it is: the shipped model learned from bare captions."""
MOST_LABELS = 10_000
"""More would make tables nobody reads, and take minutes to encode."""


def scores(ranker: Ranker, pictures: Sequence[Image.Image], captions: Sequence[str]) -> Tensor:
    """Cosine similarities times the learned scale (CLIP, section 2.3): [pictures, captions].

    Raises `UserError` for an empty caption.
    """
    if not captions:
        return torch.empty(len(pictures), 0)
    return _similarities(ranker, ranker.image_features(pictures), ranker.text_features(captions))


def rank(ranker: Ranker, pictures: Sequence[Image.Image], caption: str) -> Tensor:
    """How well each picture fits one caption, [N], more is better: what reranking sorts by.

    Cosine similarities times the learned scale, so at most 100. Raises `UserError` for an empty
    caption.
    """
    return scores(ranker, pictures, [caption])[:, 0]


def classify(
    ranker: Ranker,
    pictures: Sequence[Image.Image],
    labels: Sequence[str],
    templates: Sequence[str] = TEMPLATES,
) -> Tensor:
    """The probability of each label for each picture, [pictures, labels]; rows sum to 1.

    See `label_features` for templates and errors.
    """
    words = label_features(ranker, labels, templates)
    return probabilities(ranker, ranker.image_features(pictures), words)


def label_features(
    ranker: Ranker, labels: Sequence[str], templates: Sequence[str] = TEMPLATES
) -> Tensor:
    """Features [labels, E] of length 1: each the mean over prompt templates, normalised again.

    A template is a caption with `{}` where the label goes (CLIP, section 3.1.4). Raises `UserError`
    for labels or templates that cannot be told apart, are empty or too many.
    """
    check_labels(labels)
    check_templates(templates)
    features = [
        ranker.text_features([template.replace("{}", label.strip()) for label in labels])
        for template in templates
    ]
    return F.normalize(torch.stack(features).mean(dim=0), dim=-1)


def probabilities(ranker: Ranker, pictures: Tensor, labels: Tensor) -> Tensor:
    """Features of pictures [N, E] and labels [L, E] to probabilities [N, L]; rows sum to 1."""
    return _similarities(ranker, pictures, labels).softmax(dim=-1)


def check_labels(labels: Sequence[str]) -> None:
    """Raise `UserError` for the first thing wrong with the labels to choose from."""
    if len(labels) < 2:
        raise UserError(f"{len(labels)} labels to choose from: give two or more")
    if len(labels) > MOST_LABELS:
        raise UserError(f"{len(labels)} labels are too many: give at most {MOST_LABELS}")
    seen: dict[str, str] = {}
    for number, label in enumerate(labels, 1):
        # As the text encoding reads it, to which these are the same caption.
        read = " ".join(unicodedata.normalize("NFKC", label).lower().split())
        if not read:
            raise UserError(f"label {number} is empty: write what a picture may show")
        if read in seen:
            raise UserError(f"label {label!r} is given twice (also as {seen[read]!r}): remove one")
        seen[read] = label


def check_templates(templates: Sequence[str]) -> None:
    """Raise `UserError` for no templates, or for one without a place for the label."""
    if not templates:
        raise UserError('no templates: give at least one, such as "a picture of {}"')
    for template in templates:
        if "{}" not in template:
            raise UserError(
                f"template {template!r} has no place for the label: write {{}} where it goes"
            )


def cut(ranker: Ranker, caption: str) -> Cut | None:
    """Where the model stops reading a caption that is too long; None if it reads all of it."""
    return ranker.text.cut(caption, ranker.model.config.text_length - SPECIAL)


@torch.inference_mode()
def _similarities(ranker: Ranker, pictures: Tensor, captions: Tensor) -> Tensor:
    return ranker.model.scale().cpu() * pictures @ captions.T
