"""How much of the codebook the codes of images use."""

import numpy as np
import torch

from dalle_evaluation.intervals import OfMean, Values
from dalle_evaluation.metrics.base import Rebuilt


def measure(given: Rebuilt) -> dict[str, Values]:
    """The perplexity of all codes together, its share of the codebook, and the share in use.

    As `dvae.metrics.code_usage` has them.
    """
    vocab_size, codes = given.tokenizer.vocab_size, given.codes.flatten(1).cpu()
    counts = torch.zeros(len(codes), vocab_size, dtype=torch.int32)
    counts.scatter_add_(1, codes, torch.ones_like(codes, dtype=torch.int32))
    rows = counts.numpy()
    return {
        "perplexity": OfMean(rows, perplexity, vocab_size),
        "perplexity_share": OfMean(rows, lambda means: perplexity(means) / vocab_size, 1),
        "codes_used": OfMean(rows, lambda means: float((means > 0).mean()), 1),
    }


def perplexity(counts: np.ndarray) -> float:
    """Return e to the entropy of counts [K], from 1 to K."""
    shares = counts[counts > 0] / counts.sum()
    return float(np.exp(-(shares * np.log(shares)).sum()))
