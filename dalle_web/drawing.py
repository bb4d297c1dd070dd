"""What the page's first tab does: sample candidates, show them as they come, rank them."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from dalle.generate import TO_SAMPLE, Progress
from dalle.prompt import marked_codes
from dalle.record import repeat_command
from dalle.request import Request
from dalle.text_to_image import Samples, TextToImage, join
from dalle_base.common.errors import UserError
from dalle_base.common.opening import open_image
from dalle_base.common.shown import is_writable
from dalle_web.streams import Report, reports

LONGEST = 1000
"""Characters of a caption."""
LOWER_HALF, PAINTED = "the lower half", "what I have painted over"
WHOLE = "(any style)"


@dataclass
class Wish:
    """What a visitor asks for."""

    caption: str
    style: str = WHOLE
    candidates: int = 4
    seed: int = 0
    temperature: float = 1.0
    guidance: float = 1.0
    image: dict[str, Any] | None = None
    """Of the image editor: background and layers."""
    anew: str = LOWER_HALF
    """Which part of the image to draw anew."""

    @property
    def text(self) -> str:
        """The caption with its style. Raises `UserError` for none, or one that is too long."""
        caption = " ".join((self.caption or "").split())
        if not caption:
            raise UserError("Write a caption first: what the image should show.")
        if len(caption) > LONGEST:
            raise UserError(
                f"The caption has {len(caption):,} characters: shorten it to {LONGEST:,}."
            )
        if not is_writable(caption):
            raise UserError("The caption has characters that are no text: write it anew.")
        return caption if self.style == WHOLE else f"{caption}, {self.style} style"


@dataclass
class Shown:
    """What the page shows at a time."""

    images: list[tuple[Image.Image, str]]
    """Images and what stands below them."""
    status: str
    commands: str = ""
    mask: Image.Image | None = None
    """What the commands call mask.png: white where a visitor has painted."""


def draw(model: TextToImage, name: Path, wish: Wish) -> Iterator[Shown]:
    """Yield previews row by row, and at last the candidates, the best first.

    Raises `UserError` for a wish that cannot be fulfilled.
    """
    text = wish.text
    sampling = model.sampling.sampling(
        candidates=int(wish.candidates),
        seed=int(wish.seed),
        temperature=wish.temperature,
        guidance_scale=wish.guidance,
    )
    given, mask = given_codes(model, wish)
    columns = model.tokenizer.columns
    request = Request(
        text,
        name,
        Path("out"),
        sampling,
        image=None if given is None else Path("image.png"),
        mask=None if mask is None else Path("mask.png"),
        precision="float32",
    )

    def work(report: Report[Shown]) -> None:
        def progress(at: Progress) -> None:
            if at.step % columns == 0 and at.step < at.steps:
                rows = f"row {at.step // columns} of {at.steps // columns}"
                report(Shown([(image, "") for image in model.images(at.codes)], rows))

        samples = join(model.batches(text, sampling, given, progress))
        report(replace(ranked(model, samples, text, request), mask=mask))

    yield Shown([], "reading the caption")
    yield from reports(work)


def ranked(model: TextToImage, samples: Samples, text: str, request: Request) -> Shown:
    """Return candidates as the page shows them, the best first, with the command of each."""
    scores = model.rank(samples) if model.reranker else samples.log_likelihood
    order = scores.argsort(descending=True, stable=True).tolist()
    samples = samples.select(order)
    named = [
        f"#{number}: {score:.1f}"
        for number, score in zip(samples.candidates, scores[order].tolist(), strict=True)
    ]
    commands = "\n".join(repeat_command(request, number) for number in samples.candidates)
    note = "# image.png: the image that you have uploaded\n" * (request.image is not None)
    note += "# mask.png: what you have painted over, below\n" * (request.mask is not None)
    cut = model.text_tokenizer.cut(text, model.transformer.config.text_length)
    status = f"{len(named)} candidates, the best first." + (f" Note: {cut}." if cut else "")
    return Shown(list(zip(samples.images, named, strict=True)), status, note + commands)


def given_codes(
    model: TextToImage, wish: Wish
) -> tuple[torch.Tensor, Image.Image | None] | tuple[None, None]:
    """Return the codes [RC] of a visitor's image, `TO_SAMPLE` where they are to be drawn anew, and
    what has been painted over, if that decides it; or nothing where there is no image.
    """
    editor = wish.image or {}
    image = editor.get("background") or editor.get("composite")
    if image is None:
        return None, None
    rows, columns = model.tokenizer.rows, model.tokenizer.columns
    codes = model.codes([open_image(image)])[0].view(rows, columns)
    mask = None
    if wish.anew == LOWER_HALF:
        anew = torch.zeros(rows, columns, dtype=torch.bool)
        anew[rows // 2 :] = True
    else:
        mask = painted(editor, image.size)
        anew = marked_codes(mask, rows, columns)
        if not anew.any():
            raise UserError("Paint over what is to be drawn anew, or choose the lower half.")
    return torch.where(anew, TO_SAMPLE, codes).flatten(), mask


def painted(editor: dict[str, Any], size: tuple[int, int]) -> Image.Image:
    """Return a mask that is white where an editor's layers have paint."""
    mask = np.zeros(size[::-1], dtype=bool)
    for layer in editor.get("layers") or []:
        mask |= np.asarray(layer.convert("RGBA").resize(size))[..., 3] > 0
    return Image.fromarray(np.where(mask, 255, 0).astype(np.uint8))
