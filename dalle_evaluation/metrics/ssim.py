"""The structural similarity of reconstructions (Wang et al. 2004)."""

from dalle_evaluation.intervals import Values
from dalle_evaluation.metrics.base import Rebuilt
from dvae.metrics import ssim


def measure(given: Rebuilt) -> dict[str, Values]:
    """Each image's, at most 1: equal."""
    return {"ssim": ssim(given.images, given.rebuilt).double().cpu().numpy()}
