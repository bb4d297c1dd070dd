"""Where a drawing starts: at random codes, at an image, or at DALL-E's best candidate."""

import torch
from PIL import Image
from torch import Tensor

from dalle.text_to_image import TextToImage
from dalle_base.common.errors import UserError
from dalle_base.common.images import centre_square, to_array, to_tensor
from dvae.tokenizer import ImageTokenizer


def grid_of(tokenizer: ImageTokenizer, size: int | None) -> tuple[int, int]:
    """Return the rows and columns of codes of an image `size` pixels wide; None: the tokenizer's.

    Raises `UserError` for a size that is not a whole number of codes.
    """
    if size is None:
        return tokenizer.rows, tokenizer.columns
    pixels = tokenizer.image_size // tokenizer.rows
    if size % pixels:
        raise UserError(f"--size is {size}: a code is {pixels} pixels, write a multiple of it")
    return size // pixels, size // pixels


def random_codes(tokenizer: ImageTokenizer, grid: tuple[int, int], seed: int) -> Tensor:
    """Return codes [1, R, C], each as likely as any other."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(tokenizer.vocab_size, (1, *grid), generator=generator)


@torch.no_grad()
def codes_of(tokenizer: ImageTokenizer, image: Image.Image, grid: tuple[int, int]) -> Tensor:
    """Return the codes [1, R, C] of an image's centre square, resized to the grid's size."""
    size = grid[0] * (tokenizer.image_size // tokenizer.rows)
    pixels = to_tensor([to_array(centre_square(image, size))])
    return tokenizer.encode(pixels.to(next(tokenizer.parameters()).device))


def sampled_codes(model: TextToImage, caption: str, candidates: int, seed: int) -> Tensor:
    """Return the codes [1, R, C] of the best of some candidates, by the model's reranker.

    Raises `UserError` where there is none and several are asked for.
    """
    samples = model.generate(caption, candidates=candidates, seed=seed)
    best = int(model.rank(samples).argmax()) if candidates > 1 else 0
    return samples.codes[best].view(1, model.tokenizer.rows, model.tokenizer.columns)
