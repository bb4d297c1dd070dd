"""Whether captions find their images, and images their captions, among all of a set."""

from collections.abc import Sequence

import numpy as np
import torch

from dalle_evaluation.intervals import Values
from dalle_evaluation.metrics.base import Pairs
from dual_encoder.metrics import RECALLS, ranks


def measure(pairs: Pairs) -> dict[str, Values]:
    """Recall at k both ways, 1.0 or 0.0 for each; left out where n is not above k."""
    similarities, figures = pairs.similarities, {}
    for k in RECALLS:
        if k < len(similarities):
            to_image = recalled(similarities.T, pairs.captions, k)
            figures[f"text_to_picture_recall_at_{k}"] = to_image
            to_text = recalled(similarities, pairs.captions, k)
            figures[f"picture_to_text_recall_at_{k}"] = to_text
    return figures


def recalled(similarities: np.ndarray, captions: Sequence[str], k: int) -> np.ndarray:
    """For each row of similarities [n, n], 1.0 if a right answer is among its best k, else 0.0.

    Row i asks for what has the caption of i, so images with equal captions are all right. A wrong
    answer that ties with the right one stands before it: a model to which all is alike has no hits.
    """
    names = np.array(captions)
    right = names[:, None] == names[None, :]
    found = ranks(torch.from_numpy(similarities), torch.from_numpy(right))
    return (found <= k).double().numpy()
