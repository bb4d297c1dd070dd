"""The judge: is an image nearest to the right concept, among many that another artist drew?

Who judges is a network that was trained elsewhere, on photographs (`dalle_base.common.lite0`), and
that no model of ours has seen. It is a weak judge of drawings: what real images get is the ceiling.
"""

from collections.abc import Sequence
from typing import NamedTuple, Protocol

import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from dalle_base.common.images import centre_square, to_array, to_tensor
from dalle_evaluation.intervals import Interval, mean_interval
from dual_encoder.metrics import ranks

SIDE = 128
"""Images are enlarged to so many pixels on a side, bicubic: the network then sees more of them."""
TOGETHER = 16
"""Images whose features are computed at a time: the fastest on a CPU."""


class Network(Protocol):
    """What the judge needs of `Lite0`."""

    def features(self, images: Tensor, size: int) -> Tensor:
        """Features [B, E] of images [B, 3, H, W] in [0, 1], seen at a size."""
        ...


class Verdict(NamedTuple):
    """How n images found their concepts."""

    top_1: Interval
    """Share whose nearest reference is the right one."""
    top_5: Interval
    """Share that have the right one among their five nearest."""
    ranks: list[int]
    """Rank of the right one for each image, from 1: models are compared in pairs by these."""


def features(
    network: Network, images: Sequence[Image.Image], device: torch.device | str = "cpu"
) -> Tensor:
    """Features [N, E] of images, on the CPU."""
    parts = []
    for first in range(0, len(images), TOGETHER):
        some = images[first : first + TOGETHER]
        squares = [centre_square(image, SIDE, Image.Resampling.BICUBIC) for image in some]
        pixels = to_tensor([to_array(square) for square in squares])
        with torch.inference_mode():
            parts.append(network.features(pixels.to(device), SIDE).float().cpu())
    return torch.cat(parts)


def similarities(images: Tensor, references: Tensor) -> Tensor:
    """Cosines [n, m] of features [n, E] and [m, E], standardised by the references.

    What all references have in common (drawn, in the middle, on white) then counts for nothing, and
    every feature counts alike: real images find their concepts more often.
    """
    spread, mean = torch.std_mean(references, dim=0, correction=0)
    scale = 1 / spread.clamp(min=1e-6)
    of_images, of_references = (
        F.normalize((each - mean) * scale, dim=1) for each in (images, references)
    )
    return of_images @ of_references.T


def found_ranks(images: Tensor, references: Tensor) -> Tensor:
    """The rank, from 1, of reference i by its similarity to image i: features [n, E] to [n].

    A wrong reference that is as near as the right one counts as nearer.
    """
    near = similarities(images, references)
    return ranks(near, torch.eye(len(images), dtype=torch.bool))


def verdict(found: Tensor, resamples: int = 1000) -> Verdict:
    """Top-1 and top-5 of ranks [n], with their intervals over images."""
    top_1, top_5 = (mean_interval((found <= k).double().numpy(), resamples) for k in (1, 5))
    return Verdict(top_1, top_5, found.tolist())


def chance(count: int, k: int) -> float:
    """The share that a blind model finds among its k nearest of `count`."""
    return min(1.0, k / count)


def same_codes(codes: Tensor, others: Tensor) -> Tensor:
    """The share of codes [n, RC] that are the same in both, for each image [n]."""
    return (codes == others).double().mean(dim=1)


def finds_own(images: Tensor, training: Tensor, own: Sequence[int]) -> Tensor:
    """Whether no training image is nearer to image i than number `own[i]`: 1.0 or 0.0, [n].

    Args:
        images: features [n, E].
        training: features [m, E]. An exact copy of the right image is no nearer, up to rounding.
        own: n indices into `training`.
    """
    near = similarities(images, training)
    right = near.gather(1, torch.tensor(own)[:, None])[:, 0]
    return (right >= near.amax(dim=1) - 1e-6).double()
