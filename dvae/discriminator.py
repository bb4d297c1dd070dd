"""The PatchGAN discriminator (Isola et al. 2017): a judgement of each patch of an image."""

import math

import torch
from torch import Tensor, nn

from dalle_base.common.errors import UserError
from dvae.image_losses_config import ADVERSARIAL, AdversarialConfig

KERNEL = 4
MOST_DOUBLED = 8  # the widest layer has this many times the channels of the first


def _norm(name: str, channels: int) -> nn.Module:
    if name == "group":
        return nn.GroupNorm(math.gcd(channels, 32), channels)
    if name == "batch":
        # It always trains on, so running statistics would never be read.
        return nn.BatchNorm2d(channels, track_running_stats=False)
    return nn.Identity()


class Discriminator(nn.Module):
    """Images [B, 3, H, W] in [0, 1] to logits [B, 1, h, w], above 0 for "real".

    Raises `UserError` where images of `image_size` pixels are too small for its layers.
    """

    def __init__(self, config: AdversarialConfig, image_size: int) -> None:
        super().__init__()
        smallest = 3 * 2**config.layers
        if image_size < smallest:
            raise UserError(
                f"{ADVERSARIAL}.layers={config.layers} needs images of {smallest} pixels or more, "
                f"not {image_size}: take fewer layers"
            )
        layers: list[nn.Module] = [nn.Conv2d(3, config.channels, KERNEL, 2, 1), nn.LeakyReLU(0.2)]
        n_in = config.channels
        for number in range(1, config.layers + 1):
            n_out = config.channels * min(2**number, MOST_DOUBLED)
            stride = 2 if number < config.layers else 1
            layers += [
                # A normalisation has biases of its own.
                nn.Conv2d(n_in, n_out, KERNEL, stride, 1, bias=config.norm == "none"),
                _norm(config.norm, n_out),
                nn.LeakyReLU(0.2),
            ]
            n_in = n_out
        layers.append(nn.Conv2d(n_in, 1, KERNEL, 1, 1))
        self.layers = nn.Sequential(*layers)
        for layer in self.layers:
            if isinstance(layer, nn.Conv2d):
                nn.init.normal_(layer.weight, 0.0, 0.02)
                if layer.bias is not None:
                    nn.init.zeros_(layer.bias)

    def forward(self, *batches: Tensor) -> list[Tensor]:
        """Return the logits of each batch; batches never share their normalisation."""
        return [self.layers(2 * images - 1) for images in batches]


def frozen_logits(discriminator: nn.Module, images: Tensor) -> Tensor:
    """Return the logits of images with their gradient, and none for the discriminator."""
    weights = {name: value.detach() for name, value in discriminator.named_parameters()}
    return torch.func.functional_call(discriminator, weights, (images,))[0]
