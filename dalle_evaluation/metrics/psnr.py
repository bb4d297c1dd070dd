"""The peak signal-to-noise ratio of reconstructions, in dB."""

import numpy as np
import torch

from dalle_evaluation.intervals import OfMean, Values
from dalle_evaluation.metrics.base import Rebuilt
from dvae.metrics import decibels, squared_error


def measure(given: Rebuilt) -> dict[str, Values]:
    """`psnr`: the mean of the images' own. `psnr_pooled`: that of their mean squared error."""
    error = squared_error(given.images, given.rebuilt).double().cpu()
    return {"psnr": decibels(error).numpy(), "psnr_pooled": OfMean(error[:, None].numpy(), pooled)}


def pooled(means: np.ndarray) -> float:
    """Return the ratio of a mean squared error [1]."""
    return float(decibels(torch.from_numpy(means))[0])
