"""What a tokenizer leaves of images, and the metrics of it."""

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from PIL import Image
from tqdm import tqdm

from dalle_base.common.images import to_array, to_image, to_tensor
from dalle_base.data.batches import ImageDataset
from dalle_evaluation.intervals import Values, joined
from dalle_evaluation.metrics import RECONSTRUCTION_METRICS
from dalle_evaluation.metrics.base import Rebuilt
from dvae.perceptual import Network
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


def image_of(pixels: np.ndarray) -> Image.Image:
    """An array uint8 [3, H, W] as an image."""
    return Image.fromarray(np.ascontiguousarray(pixels.transpose(1, 2, 0)))


def batches_of(images: ImageDataset, batch_size: int = 64) -> Iterator[list[Image.Image]]:
    """Yield all training images, unaugmented, some at a time, behind a progress bar."""
    with tqdm(total=len(images), desc="training images", dynamic_ncols=True) as bar:
        for first in range(0, len(images), batch_size):
            numbers = range(first, min(first + batch_size, len(images)))
            yield [image_of(images[i, i].pixels) for i in numbers]
            bar.update(len(numbers))


@torch.inference_mode()
def measure_reconstructions(
    tokenizer: ImageTokenizer,
    images: Sequence[np.ndarray],
    network: Network | None,
    batch_size: int = 64,
) -> dict[str, Values]:
    """Return the values of all RECONSTRUCTION_METRICS on uint8 [3, H, W] images, in their order.

    `network` is that of perceptual distances, or None where it is not installed.
    """
    device, generator = next(tokenizer.parameters()).device, torch.Generator().manual_seed(0)
    parts: dict[str, list[Values]] = {}
    starts = range(0, len(images), batch_size)
    for first in tqdm(starts, "reconstructions", dynamic_ncols=True):
        pixels = to_tensor(list(images[first : first + batch_size])).to(device)
        codes = tokenizer.encode(pixels)
        given = Rebuilt(pixels, codes, tokenizer.decode(codes), tokenizer, network, generator)
        for measure in RECONSTRUCTION_METRICS.values():
            for name, values in measure(given).items():
                parts.setdefault(name, []).append(values)
    return {name: joined(each) for name, each in parts.items()}
