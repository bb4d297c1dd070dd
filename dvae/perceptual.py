"""Perceptual distance: how far apart images are to a frozen, pretrained network."""

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor
from torch.nn import functional as F


class Network(Protocol):
    """A frozen network whose activations are compared."""

    def activations(self, images: Tensor, blocks: Sequence[int], size: int) -> list[Tensor]:
        """Return blocks' outputs [B, C, h, w] for images [B, 3, H, W] in [0, 1]."""
        ...


def perceptual_distance(
    network: Network, images: Tensor, reconstruction: Tensor, blocks: Sequence[int], size: int
) -> Tensor:
    """Return the mean over a batch of `perceptual_distances`, a scalar."""
    return perceptual_distances(network, images, reconstruction, blocks, size).mean()


def perceptual_distances(
    network: Network, images: Tensor, reconstruction: Tensor, blocks: Sequence[int], size: int
) -> Tensor:
    """Return the distance of each image from its reconstruction, [B].

    Activations are scaled to length 1 over channels; squared differences are summed over channels,
    averaged over positions and summed over blocks: LPIPS (Zhang et al. 2018) with all of its
    learned weights at 1. The gradient is the reconstruction's alone.

    Args:
        network: compares images; its own weights are frozen.
        images: [B, 3, H, W] in [0, 1].
        reconstruction: the same shape.
        blocks: numbers of the network's blocks whose outputs are compared.
        size: side in pixels to which images are resized for the network.
    """
    with torch.no_grad():
        targets = network.activations(images, blocks, size)
    total = reconstruction.new_zeros(len(reconstruction))
    for target, own in zip(targets, network.activations(reconstruction, blocks, size), strict=True):
        difference = F.normalize(own, dim=1) - F.normalize(target, dim=1)
        total = total + difference.square().sum(dim=1).mean(dim=(1, 2))
    return total
