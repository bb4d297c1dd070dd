"""The evidence lower bound of images, in bits a pixel value (section 2.1, A.3)."""

import math

from dalle_evaluation.intervals import Values
from dalle_evaluation.metrics.base import Rebuilt


def measure(given: Rebuilt) -> dict[str, Values]:
    """The bound and its two parts; nothing of a tokenizer that has no likelihood.

    The likelihood is a density of pixel values as they are mapped, as in training's log.
    """
    found = given.tokenizer.elb(given.images, given.generator)
    if found is None:
        return {}
    parts = {"elb_bits": found.elb, "nll_bits": found.nll, "kl_bits": found.kl}
    return {name: part.double().cpu().numpy() / math.log(2) for name, part in parts.items()}
