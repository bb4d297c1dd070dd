"""Ranking and classifying: against features by hand, and with a model that knows colours."""

import math

import pytest
import torch
from PIL import Image
from rankers import COLOURS, colour_ranker, plain, untrained
from torch.nn import functional as F

from dalle_base.common.errors import UserError
from dual_encoder import rank
from dual_encoder.ranker import Ranker


def classify(ranker: Ranker, images: list[Image.Image], labels: list[str], *templates: str):
    """Probabilities [images, labels]."""
    features = rank.label_features(ranker, labels, templates or rank.TEMPLATES)
    return rank.probabilities(ranker, ranker.image_features(images), features)


def test_similarities_are_scaled_cosines_of_every_image_with_every_caption() -> None:
    ranker = untrained()
    images = [plain("red"), plain("blue")]
    captions = ["red", "a green thing", "a picture"]
    found = rank.similarities(ranker, images, captions)
    assert found.shape == (2, 3)
    seen, read = ranker.image_features(images), ranker.text_features(captions)
    expected = F.cosine_similarity(seen[1], read[2], dim=0) / 0.07
    assert found[1, 2].item() == pytest.approx(expected.item(), rel=1e-5)
    assert rank.similarities(ranker, [], captions).shape == (0, 3)
    assert rank.similarities(ranker, images, []).shape == (2, 0)


def test_the_image_that_fits_ranks_first() -> None:
    images = [plain(colour) for colour in COLOURS]
    captions = [f"a {colour} thing" for colour in COLOURS]
    found = rank.similarities(colour_ranker(), images, captions)
    assert found.argmax(dim=0).tolist() == list(range(len(COLOURS)))


def test_probabilities_sum_to_1_and_find_the_label() -> None:
    images = [plain("blue"), plain("red")]
    found = classify(colour_ranker(), images, list(COLOURS), "a {} thing")
    torch.testing.assert_close(found.sum(dim=1), torch.ones(2))
    assert found.argmax(dim=1).tolist() == [2, 0]
    assert found.max(dim=1).values.min() > 0.8


def test_templates_are_averaged_as_features_of_length_1() -> None:
    ranker = untrained()
    labels, templates = ["red", "blue"], ["a picture of {}", "{} and {}"]
    by_hand = torch.stack(
        [
            ranker.text_features(["a picture of red", "a picture of blue"]),
            ranker.text_features(["red and red", "blue and blue"]),
        ]
    ).mean(dim=0)
    by_hand = by_hand / by_hand.norm(dim=-1, keepdim=True)
    torch.testing.assert_close(rank.label_features(ranker, labels, templates), by_hand)
    found = classify(ranker, [plain("red")], labels, *templates)
    logits = (
        ranker.image_features([plain("red")])
        @ by_hand.T
        * math.exp(ranker.model.logit_scale.item())
    )
    torch.testing.assert_close(found, logits.softmax(dim=-1))
    assert not torch.allclose(found, classify(ranker, [plain("red")], labels))


def test_braces_of_a_label_are_no_places() -> None:
    ranker = untrained()
    found = rank.label_features(ranker, ["{x}", "{0}"], ["a {}"])
    torch.testing.assert_close(found, ranker.text_features(["a {x}", "a {0}"]))


@pytest.mark.parametrize(
    ("labels", "templates", "message"),
    [
        ([], ["{}"], "0 labels"),
        (["red"], ["{}"], "two or more"),
        (["red", " "], ["{}"], "label 2 is empty"),
        (["red", "blue", "RED "], ["{}"], "'RED ' is given twice"),
        ([str(i) for i in range(10_001)], ["{}"], "10001 labels are too many"),
        (["red", "blue"], [], "no templates"),
        (["red", "blue"], ["{}", "a picture"], "'a picture' has no place"),
    ],
)
def test_bad_labels_and_templates_are_named(labels, templates, message) -> None:
    with pytest.raises(UserError, match=message):
        rank.label_features(untrained(), labels, templates)
