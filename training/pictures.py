"""From a picture file to a square RGB array: white background, crop, resize, augmentation."""

import io
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageEnhance
from torch import Tensor

from training.errors import UserError

WHITE = (255, 255, 255)
FLIPS = ("none", "all", "mirrorable")


@dataclass
class AugmentConfig:
    """Augmentation of training pictures. The defaults are the paper's (appendix A.2)."""

    crop: bool = True
    """Crop near the centre, resize to a random side, crop at random; else crop the centre."""
    max_scale: float = 1.125
    """Largest side before the random crop, as a multiple of the picture's final side."""
    flip: str = "none"
    """Horizontal flips: none, all, or mirrorable (only where the data's column says so)."""
    border: float = 0.0
    """Add a white border of up to this share of the side first, so that cropping cuts less."""
    colour: float = 0.0
    """Vary brightness, contrast and saturation by up to this share."""

    def validate(self) -> None:
        """Raise `UserError` on impossible values."""
        if self.flip not in FLIPS:
            raise UserError(f"data.augment.flip is {self.flip!r}; use one of {', '.join(FLIPS)}")
        if self.max_scale < 1:
            raise UserError("data.augment.max_scale must be at least 1")
        if self.border < 0 or self.colour < 0:
            raise UserError("data.augment.border and data.augment.colour must not be negative")


class UnreadablePictureError(Exception):
    """A picture that cannot be decoded; the message names it and says why."""


def open_picture(
    source: Path | bytes | Image.Image | Callable[[], Image.Image], name: str = "picture"
) -> Image.Image:
    """Decode (or draw) a picture and composite it on white, in RGB.

    Raises `UnreadablePictureError`.
    """
    try:
        if isinstance(source, Image.Image):
            image = source
        elif callable(source):
            image = source()
        else:
            content = source if isinstance(source, bytes) else source.read_bytes()
            image = Image.open(io.BytesIO(content))
        image.load()
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise UnreadablePictureError(f"{name}: {error}") from None
    if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
        image = image.convert("RGBA")
        canvas = Image.new("RGBA", image.size, (*WHITE, 255))
        image = Image.alpha_composite(canvas, image)
    return image.convert("RGB")


def centre_square(
    image: Image.Image, size: int, resampling: Image.Resampling = Image.Resampling.LANCZOS
) -> Image.Image:
    """Resize the short side to `size` and crop the centre: what evaluation and prompts see."""
    side = min(image.size)
    left, top = (image.width - side) / 2, (image.height - side) / 2
    box = (left, top, left + side, top + side)
    return image.resize((size, size), resampling, box=box)


def augment(
    image: Image.Image,
    size: int,
    options: AugmentConfig,
    rng: np.random.Generator,
    mirrorable: bool = True,
) -> Image.Image:
    """Return a randomly cropped, resized and varied square picture (appendix A.2)."""
    if options.border:
        image = _with_border(image, round(rng.uniform(0, options.border) * max(image.size)))
    if options.crop:
        side = min(image.size)
        left, top = (rng.uniform(3 / 8, 5 / 8) * (extent - side) for extent in image.size)
        # The resize to a random side and the crop to `size` are one resampling of a smaller box.
        visible = side * size / rng.uniform(size, options.max_scale * size)
        left += rng.uniform(0, side - visible)
        top += rng.uniform(0, side - visible)
        box = (left, top, left + visible, top + visible)
        image = image.resize((size, size), Image.Resampling.LANCZOS, box=box)
    else:
        image = centre_square(image, size)
    if options.flip != "none" and (options.flip == "all" or mirrorable) and rng.random() < 0.5:
        image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    if options.colour:
        for enhancer in (ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color):
            factor = rng.uniform(1 - options.colour, 1 + options.colour)
            image = enhancer(image).enhance(factor)
    return image


def _with_border(image: Image.Image, pixels: int) -> Image.Image:
    canvas = Image.new("RGB", (image.width + 2 * pixels, image.height + 2 * pixels), WHITE)
    canvas.paste(image, (pixels, pixels))
    return canvas


def to_array(image: Image.Image) -> np.ndarray:
    """Return an RGB picture as uint8 [3, H, W]."""
    return np.asarray(image, dtype=np.uint8).transpose(2, 0, 1)


def to_tensor(arrays: list[np.ndarray]) -> Tensor:
    """Stack uint8 [3, H, W] arrays to float pictures [B, 3, H, W] in [0, 1], channels last."""
    images = torch.from_numpy(np.stack(arrays)).float().div_(255)
    return images.contiguous(memory_format=torch.channels_last)


def to_picture(image: Tensor) -> Image.Image:
    """Return a picture [3, H, W] in [0, 1] as a Pillow image."""
    array = image.clamp(0, 1).mul(255).round().to(torch.uint8).permute(1, 2, 0).cpu().numpy()
    return Image.fromarray(np.ascontiguousarray(array))
