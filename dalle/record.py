"""What drawing leaves behind: pictures, a labelled grid, and a JSON that says how to draw each."""

import argparse
import json
import re
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from dalle.generate import DRAW
from dalle.text_to_image import Drawn, TextToImage
from training.errors import UserError
from training.grids import grid

RECORD, GRID = "samples.json", "grid.png"
ROUNDING = 2
"""Grey levels by which the same codes' pictures may differ."""


def make_folder(folder: Path) -> Path:
    """Make the output folder now, so that no picture is drawn in vain. Raises `UserError`."""
    probe = folder / ".writable"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise UserError(f"cannot write into {folder}: {error.strerror}; set --out") from None
    return folder


def slug(caption: str) -> str:
    """Return a folder name for a caption."""
    return re.sub(r"\W+", "-", caption.lower()).strip("-")[:60] or "caption"


def redraw_command(options: argparse.Namespace, candidate: int) -> str:
    """Return the command line that draws one candidate alone."""
    words = ["python", "sample.py", "--text", options.text, "--model", str(options.model)]
    words += ["--seed", str(options.seed), "--first", str(candidate), "--candidates", "1"]
    words += ["--temperature", str(options.temperature), "--guidance", str(options.guidance)]
    words += ["--top-k", str(options.top_k), "--top-p", str(options.top_p)]
    if options.precision != "float32":
        words += ["--precision", options.precision]
    if options.compile:
        words += ["--compile"]
    if options.image:
        words += ["--image", str(options.image)]
    if options.keep_rows is not None:
        words += ["--keep-rows", str(options.keep_rows)]
    if options.redraw_from is not None:
        words += ["--redraw-from", *map(str, options.redraw_from)]
    return shlex.join(words)


def write(
    folder: Path,
    options: argparse.Namespace,
    drawn: Drawn,
    given: Tensor | None,
    scores: Sequence[float] | None = None,
) -> tuple[Path, Path]:
    """Write candidates, grid and record; return the paths of the last two. Raises `UserError`.

    `scores` are the reranker's, in whose order the candidates then come.
    """
    likelihoods = drawn.log_likelihood.tolist()
    shown = likelihoods if scores is None else scores
    try:
        names = [f"{options.seed}-{k:03d}.png" for k in drawn.candidates]
        for name, image in zip(names, drawn.pictures, strict=True):
            image.save(folder / name)
        digits = 0 if scores is None else 1
        labels = [
            f"#{k}  {value:.{digits}f}" for k, value in zip(drawn.candidates, shown, strict=True)
        ]
        sheet(drawn.pictures, labels, options.text).save(folder / GRID)
        record = {
            "text": options.text,
            "model": str(options.model),
            "seed": options.seed,
            "temperature": options.temperature,
            "top_k": options.top_k,
            "top_p": options.top_p,
            "guidance": options.guidance,
            "precision": options.precision,
            "image": str(options.image) if options.image else None,
            "reranker": str(options.reranker) if scores is not None else None,
            "kept_codes": 0 if given is None else int((given != DRAW).sum()),
            "candidates": [
                {
                    "file": name,
                    "candidate": candidate,
                    "log_likelihood": value,
                    "score": score,
                    "command": redraw_command(options, candidate),
                    "codes": codes,
                }
                for name, candidate, value, score, codes in zip(
                    names,
                    drawn.candidates,
                    likelihoods,
                    scores or [None] * len(names),
                    drawn.codes.tolist(),
                    strict=True,
                )
            ],
        }
        (folder / RECORD).write_text(json.dumps(record, indent=1), encoding="utf-8")
    except OSError as error:
        raise UserError(f"cannot write into {folder}: {error.strerror}; set --out") from None
    return folder / GRID, folder / RECORD


def sheet(pictures: list[Image.Image], labels: list[str] | None, title: str) -> Image.Image:
    """Return a grid that is not much taller than wide, of pictures at twice their size."""
    columns = min(len(pictures), max(8, round(len(pictures) ** 0.5)))
    return grid(pictures, columns, labels, title, scale=2)


def write_preview(path: Path, pictures: list[Image.Image], title: str) -> None:
    """Write pictures that are still being drawn, so that a viewer never sees half a file."""
    new = path.with_name(f".{path.name}")
    sheet(pictures, None, title).save(new, format="PNG")
    new.replace(path)


def recorded_codes(path: Path, image: Image.Image, model: TextToImage) -> Tensor | None:
    """Return the codes [RC] that a picture was drawn from, or None if it is not one of the model's.

    Encoding a drawn picture again would change some of them. The record beside it is believed only
    where its codes give the very picture.
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
    again = np.asarray(model.pictures(codes[None])[0], dtype=np.int16)
    if again.shape != (*image.size[::-1], 3):
        return None
    # A picture that was decoded beside others may differ by rounding.
    return codes if np.abs(again - np.asarray(image)).max() <= ROUNDING else None
