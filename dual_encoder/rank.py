"""Ranking and classifying: how well images fit captions, and which of some labels fits best."""

import unicodedata
from collections.abc import Sequence

import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from dalle_base.common.errors import UserError
from dalle_base.data.text import Cut
from dual_encoder.ranker import Ranker
from dual_encoder.text import SPECIAL

TEMPLATES = ("{}",)
"""The label as it is: the shipped model learned from bare captions."""
MOST_LABELS = 10_000
"""More would make tables nobody reads, and take minutes to encode."""


def similarities(ranker: Ranker, images: Sequence[Image.Image], captions: Sequence[str]) -> Tensor:
    """Cosine similarities times the learned scale (CLIP, section 2.3): [images, captions].

    What reranking sorts by, at most 100. Raises `UserError` for an empty caption.
    """
    if not captions:
        return torch.empty(len(images), 0)
    return _scaled(ranker, ranker.image_features(images), ranker.text_features(captions))


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


def probabilities(ranker: Ranker, images: Tensor, labels: Tensor) -> Tensor:
    """Features of images [N, E] and labels [L, E] to probabilities [N, L]; rows sum to 1."""
    return _scaled(ranker, images, labels).softmax(dim=-1)


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
            raise UserError(f"label {number} is empty: write what an image may show")
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
    return ranker.text_tokenizer.cut(caption, ranker.model.config.text_length - SPECIAL)


@torch.inference_mode()
def _scaled(ranker: Ranker, images: Tensor, captions: Tensor) -> Tensor:
    return ranker.model.scale().cpu() * images @ captions.T
