"""An image to start from: which of its codes are kept, and how likely it is."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from dalle.generate import TO_SAMPLE
from dalle.record import RECORD
from dalle.request import Request
from dalle.text_to_image import TextToImage
from dalle_base.common.errors import UserError
from dalle_base.common.images import centre_square
from dalle_base.common.opening import read_image

ROUNDING = 2
"""Grey levels by which the same codes' images may differ."""
MIDDLE = 127
"""Grey level above which a mask marks."""


def read_codes(model: TextToImage, path: Path, image: Image.Image | None = None) -> Tensor:
    """Return an image's codes [RC]: those it was decoded from, where a record beside it has them.

    Args:
        model: whose codes.
        path: of the image.
        image: what is at that path, where it has been read already.

    Raises:
        UserError: the image cannot be read.
    """
    image = image or read_image(path, "--image")
    recorded = recorded_codes(path, image, model)
    return model.codes([image])[0] if recorded is None else recorded


def read_prompt(model: TextToImage, request: Request) -> Tensor:
    """Return --image's codes [RC] with `TO_SAMPLE` for those to sample.

    Raises `UserError` for an image or a mask that cannot be read, and rows or columns that are not
    there.
    """
    assert request.image
    rows, columns = model.tokenizer.rows, model.tokenizer.columns
    if request.mask:
        image = read_image(request.image, "--image")
        marked = read_mask(request.mask, image.size, rows, columns)
        return torch.where(marked.flatten(), TO_SAMPLE, read_codes(model, request.image, image))
    keep = rows // 2 if request.keep_rows is None else request.keep_rows
    row, column = request.redraw_from or (keep, 0)
    if request.redraw_from is None and not 1 <= row <= rows:
        raise UserError(f"--keep-rows is {row}: write 1 to {rows}, which keeps all of it")
    if request.redraw_from and not (0 <= row < rows and 0 <= column < columns and row + column):
        raise UserError(
            f"--redraw-from is {row} {column}: write a row from 0 to {rows - 1} and a column from "
            f"0 to {columns - 1}, not both 0"
        )
    grid = read_codes(model, request.image).view(rows, columns).clone()
    grid[row:, column:] = TO_SAMPLE
    return grid.flatten()


def read_mask(path: Path, size: tuple[int, int], rows: int, columns: int) -> Tensor:
    """Return which codes a mask marks, bool [rows, columns]: those of which it marks any pixel.

    A pixel is marked where the mask is lighter than middle grey, as white and clear pixels are. As
    of the image, whose width and height are `size`, the centre square counts. Raises `UserError`
    for a mask that cannot be read, that is of another size than the image, or that marks nothing or
    everything.
    """
    width, height = size
    mask = read_image(path, "--mask").convert("L")
    if mask.size != (width, height):
        raise UserError(
            f"--mask {path} has {mask.width}x{mask.height} pixels and --image {width}x{height}: "
            "make them alike"
        )
    found = marked_codes(mask, rows, columns)
    if found.all() or not found.any():
        what = "everything: leave --image out" if found.all() else "nothing: make some of it white"
        raise UserError(f"--mask {path} marks {what}")
    return found


def marked_codes(mask: Image.Image, rows: int, columns: int) -> Tensor:
    """Return the codes of which a mask's centre square marks any pixel, bool [rows, columns]."""
    marked = np.asarray(centre_square(mask.convert("L"), min(mask.size))) > MIDDLE
    cells = F.adaptive_max_pool2d(torch.tensor(marked)[None].float(), (rows, columns))
    return cells[0] > 0


def recorded_codes(path: Path, image: Image.Image, model: TextToImage) -> Tensor | None:
    """Return the codes [RC] that an image was decoded from, or None if it is none of the model's.

    Encoding a sampled image again would change some of them. The record beside it is believed only
    where its codes give the very image.
    """
    try:
        record = json.loads((path.parent / RECORD).read_text("utf-8"))
        entry: dict[str, Any] = next(c for c in record["candidates"] if c["file"] == path.name)
        codes = torch.tensor(entry["codes"])
    except (OSError, ValueError, KeyError, TypeError, StopIteration):
        return None
    tokenizer = model.tokenizer
    fits = codes.dtype == torch.int64 and codes.shape == (tokenizer.rows * tokenizer.columns,)
    if not fits or codes.min() < 0 or codes.max() >= tokenizer.vocab_size:
        return None
    again = np.asarray(model.images(codes[None])[0], dtype=np.int16)
    if again.shape != (*image.size[::-1], 3):
        return None
    # An image that was decoded beside others may differ by rounding.
    return codes if np.abs(again - np.asarray(image)).max() <= ROUNDING else None
