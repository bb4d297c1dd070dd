"""The memory of sampling: how many candidates' caches fit, and what they take."""

import math

from dalle.config import Sampling
from dalle.transformer import Transformer
from dalle_base.common.errors import UserError


def fitting_batch(model: Transformer, memory: int, guided: bool = False, most: int = 64) -> int:
    """Return how many candidates of a caption fit their caches into `memory` bytes, up to `most`.

    Raises `UserError` where not even one fits.
    """
    streams = 2 if guided else 1  # guidance decodes each candidate twice
    text = model.cache_bytes(streams, 0)
    each = model.cache_bytes(0, streams)
    if text + each > memory:
        raise UserError(
            f"one candidate's caches take {(text + each) / 1e6:.1f} MB and {memory / 1e6:.1f} MB "
            "are allowed: allow more"
        )
    return min(most, (memory - text) // each)


def memory_report(model: Transformer, sampling: Sampling) -> str:
    """Return in a sentence the size of the candidates' caches, and in how many batches."""
    batches = math.ceil(sampling.candidates / sampling.batch_size)
    together = math.ceil(sampling.candidates / batches)
    streams = 2 if sampling.guidance_scale != 1 else 1
    return (
        f"{sampling.candidates} candidates in {batches} batch{'es' if batches > 1 else ''} of up "
        f"to {together}: {model.cache_bytes(streams, streams * together) / 1e6:.1f} MB of "
        f"caches, {model.cache_bytes(streams, 0) / 1e6:.2f} MB of it the caption's"
    )
