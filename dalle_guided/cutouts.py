"""Views of an image for the encoder: crops, turned, recoloured and noisy."""

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from dalle_guided.config import CutoutsConfig


def cut_out(image: Tensor, size: int, config: CutoutsConfig, generator: torch.Generator) -> Tensor:
    """Return views of an image, differentiably.

    Args:
        image: [1, 3, H, W] in about [0, 1].
        size: side of a view in pixels, which is what the encoder reads.
        config: how many, and how they differ.
        generator: of the CPU; the same state gives the same views on every device.

    Returns:
        [config.count, 3, size, size]; what lies outside the image repeats its edge.
    """
    where = placements(config, generator)
    height, width = image.shape[2:]
    # More pixels than the view has are averaged, as a resize does, not skipped.
    finer = max(1, math.ceil(max(height, width) / size))
    grid = F.affine_grid(where, [config.count, 3, size * finer, size * finer], align_corners=False)
    images = image.expand(config.count, -1, -1, -1)
    views = F.grid_sample(
        images, grid.to(image), mode="bilinear", padding_mode="border", align_corners=False
    )
    if finer > 1:
        views = F.avg_pool2d(views, finer)
    return _recoloured(views, config, generator)


def placements(config: CutoutsConfig, generator: torch.Generator) -> Tensor:
    """Return where each view lies in the image: affine matrices [count, 2, 3] from the view's
    coordinates to the image's, both from -1 to 1.
    """
    count = config.count
    u = torch.rand(7, count, generator=generator)
    zoomed = u[0] < config.zoomed
    side = torch.where(zoomed, config.smallest + (1 - config.smallest) * u[1], 0.9 + 0.2 * u[1])
    angle = math.radians(config.degrees) * (2 * u[2] - 1)
    shear = config.shear * (2 * u[3] - 1)
    # A crop lies anywhere within the image; a view of all of it moves by a twentieth.
    room = torch.where(zoomed, 1 - side, 0.1)
    x, y = (room * (2 * u[k] - 1) for k in (4, 5))
    cosine, sine = side * angle.cos(), side * angle.sin()
    rows = [cosine, shear * side - sine, x], [sine, cosine, y]
    return torch.stack([torch.stack(row, dim=1) for row in rows], dim=1)


def _recoloured(views: Tensor, config: CutoutsConfig, generator: torch.Generator) -> Tensor:
    """Return views with brightness, contrast and noise of their own."""
    count = len(views)
    u = torch.rand(3, count, 1, 1, 1, generator=generator)
    noise = torch.randn(views.shape, generator=generator) * (config.noise * u[2])
    brightness, contrast = (config.colour * (2 * u[k] - 1) for k in (0, 1))
    brightness, contrast, noise = (part.to(views) for part in (brightness, contrast, noise))
    mean = views.mean(dim=(1, 2, 3), keepdim=True)
    return (views - mean) * (1 + contrast) + mean + brightness + noise
