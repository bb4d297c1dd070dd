"""What a tokenizer leaves of images, and how far a pretrained network finds that from them."""

from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image
from tqdm import tqdm

from dalle_base.common.images import to_array, to_image, to_tensor
from dvae.image_losses_config import PerceptualConfig
from dvae.perceptual import Network, perceptual_distance
from dvae.tokenizer import ImageTokenizer


def reconstructions(
    tokenizer: ImageTokenizer, images: Sequence[Image.Image], batch_size: int = 64
) -> list[Image.Image]:
    """Encode and decode images of the tokenizer's size."""
    device, rebuilt = next(tokenizer.parameters()).device, []
    for first in range(0, len(images), batch_size):
        pixels = to_tensor([to_array(image) for image in images[first : first + batch_size]])
        rebuilt += map(to_image, tokenizer.reconstruct(pixels.to(device)))
    return rebuilt


@torch.inference_mode()
def lite0_distance(
    network: Network, tokenizer: ImageTokenizer, images: Sequence[np.ndarray], batch_size: int = 16
) -> float:
    """The mean perceptual distance of uint8 [3, H, W] images from their reconstructions.

    It is what tokenizers may be trained by (`perceptual_distance`), with the same blocks and size
    for every tokenizer, whatever it was trained by.
    """
    device, total, how = next(tokenizer.parameters()).device, 0.0, PerceptualConfig()
    starts = range(0, len(images), batch_size)
    for first in tqdm(starts, "perceptual distance", dynamic_ncols=True):
        pixels = to_tensor(list(images[first : first + batch_size])).to(device)
        rebuilt = tokenizer.reconstruct(pixels)
        distance = perceptual_distance(network, pixels, rebuilt, how.blocks, how.size)
        total += float(distance) * len(pixels)
    return total / len(images)
