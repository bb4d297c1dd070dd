"""Augmentation of training images (appendix A.2)."""

import numpy as np
from PIL import Image, ImageEnhance

from dalle_base.common.images import WHITE, centre_square
from dalle_base.data.config import AugmentConfig


def augment(
    image: Image.Image,
    size: int,
    options: AugmentConfig,
    rng: np.random.Generator,
    mirrorable: bool = False,
) -> Image.Image:
    """Return a randomly cropped, resized and varied square image (appendix A.2).

    With `options.flip` "mirrorable" it may be flipped only if the data says that it is so.
    """
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
