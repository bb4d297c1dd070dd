"""The one opener of images: whatever the file, what comes out is upright RGB on white."""

import io
import os
import stat
import warnings
from collections.abc import Callable
from pathlib import Path

from PIL import ExifTags, Image, ImageCms, ImageOps, UnidentifiedImageError

from dalle_base.common.errors import UserError
from dalle_base.common.grey import DEEP, to_8_bits
from dalle_base.common.report import shown

WHITE = (255, 255, 255)
FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "AVIF", "PPM")
"""What is opened: no format for which Pillow would start another program (EPS: Ghostscript)."""
MOST_PIXELS = 178_956_970
"""Pixels of an image; with more of them a small file could fill the memory."""
MOST_BYTES = 2**31
"""Bytes of an image file."""


class UnreadableImageError(Exception):
    """An image that cannot be decoded; the message names it and says why, on one line."""


def open_image(
    source: Path | bytes | Image.Image | Callable[[], Image.Image], name: str = "image"
) -> Image.Image:
    """Decode (or render) an image, upright, in 8-bit RGB and on white.

    The format is detected from the content (`FORMATS`). Of several frames or pages it is the first;
    an orientation in the metadata is applied; more than 8 bits are scaled (`to_8_bits`).

    Raises:
        UnreadableImageError: no regular file, no image of these formats, damaged, or too large.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow's, on metadata that does not matter here
            return _on_white(_upright(_decoded(source)))
    except UnreadableImageError as error:
        raise UnreadableImageError(f"{shown(name)}: {error}") from None
    except Exception as error:  # damage shows in nearly any exception of Pillow's decoders
        if callable(source) and not isinstance(error, OSError | ValueError | SyntaxError):
            raise  # no file, but code that fails
        raise UnreadableImageError(shown(f"{name}: {_reason(error)}")) from None


def read_image(path: Path, flag: str = "") -> Image.Image:
    """Return the image that a user has named, by `flag` where there is one. Raises `UserError`."""
    try:
        return open_image(path, str(path))
    except UnreadableImageError as error:
        said = f"{flag}: " if flag else ""
        raise UserError(f"{said}not a readable image: {error}") from None


def _decoded(source: Path | bytes | Image.Image | Callable[[], Image.Image]) -> Image.Image:
    if isinstance(source, bytes | Path):
        content = source if isinstance(source, bytes) else _read_file(source)
        if not content:
            raise UnreadableImageError("the file is empty")
        image = Image.open(io.BytesIO(content), formats=FORMATS)
    else:
        image = source if isinstance(source, Image.Image) else source()
    width, height = image.size
    if not 0 < width * height <= MOST_PIXELS:
        raise Image.DecompressionBombError
    image.load()
    return image


def _read_file(path: Path) -> bytes:
    """Read a regular file. Others, such as pipes and devices, might never end: they are not."""
    if not stat.S_ISREG(path.stat().st_mode):
        raise UnreadableImageError("no regular file")
    with path.open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        if size > MOST_BYTES:
            raise UnreadableImageError(f"a file of {size / 2**30:.1f} GB: up to 2 GB are read")
        return file.read(MOST_BYTES)


def _upright(image: Image.Image) -> Image.Image:
    try:
        turned = image.getexif().get(ExifTags.Base.Orientation, 1) != 1
        return ImageOps.exif_transpose(image) if turned else image
    except Exception:  # damaged metadata of an image that was decoded
        return image


def _on_white(image: Image.Image) -> Image.Image:
    if image.mode in DEEP:
        image = to_8_bits(image)
    elif image.mode == "LAB":
        image = _lab_to_rgb(image)
    elif image.mode == "La":
        image = image.convert("LA")
    if image.mode in ("RGBA", "LA", "PA", "RGBa") or "transparency" in image.info:
        image = image.convert("RGBA")
        canvas = Image.new("RGBA", image.size, (*WHITE, 255))
        image = Image.alpha_composite(canvas, image)
    return image.convert("RGB")


def _lab_to_rgb(image: Image.Image) -> Image.Image:
    profiles = ImageCms.createProfile("LAB"), ImageCms.createProfile("sRGB")
    converted = ImageCms.profileToProfile(image, *profiles, outputMode="RGB")
    assert converted is not None  # only a conversion in place returns none
    return converted


def _reason(error: Exception) -> str:
    """Return one line on what is wrong with an image."""
    if isinstance(error, Image.DecompressionBombError):
        return f"it has no pixels or too many: up to {MOST_PIXELS:,} are read"
    if isinstance(error, UnidentifiedImageError):
        return f"damaged, or no image of a format that is read ({', '.join(FORMATS)})"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    if isinstance(error, MemoryError):
        return "there is not enough memory for it"
    lines = str(error).splitlines()
    return f"damaged ({lines[0] if lines else type(error).__name__})"
