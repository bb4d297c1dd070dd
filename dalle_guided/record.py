"""What a guided drawing leaves behind: the image, its way as a sheet and a GIF, and a record."""

import shlex
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from dalle_base.common.files import write_file
from dalle_base.common.images import grid, save_image
from dalle_base.common.report import write_json
from dalle_guided.drawing import Drawing, Measured
from dalle_guided.request import GuideRequest, guide_command

RECORD = "guided.json"
ACROSS = 8
"""Frames in a row of the sheet."""
MOST_FRAMES = 32
FRAME_MS, LAST_MS = 120, 1500
"""How long a GIF shows a frame, and the last one."""


def write_drawing(
    folder: Path, request: GuideRequest, seed: int, drawing: Drawing
) -> tuple[str, str, str]:
    """Write an image, and its way as a sheet and a GIF; return the files' names.

    Raises `UserError` where that is impossible.
    """
    image, sheet, animation = names = f"{seed}.png", f"{seed}-way.png", f"{seed}-way.gif"
    save_image(drawing.image, folder / image)
    write_way(folder / sheet, request, drawing)
    write_gif(folder / animation, drawing)
    return names


def write_way(path: Path, request: GuideRequest, drawing: Drawing) -> None:
    """Write what there is of a drawing as a sheet: steps, and both scores."""
    frames = some(drawing.way)
    labels = [_label(frame) for frame in frames]
    scale = 2 if frames[0].image.width <= 64 else 1
    sheet = grid(
        [frame.image for frame in frames], min(ACROSS, len(frames)), labels, request.text, scale
    )
    save_image(sheet, path)


def write_gif(path: Path, drawing: Drawing) -> None:
    """Write the way as an animation that ends with the image that was kept."""
    images = [frame.image for frame in drawing.way if frame.step <= drawing.best.step]
    images = [image.resize((2 * image.width, 2 * image.height)) for image in images]
    durations = [FRAME_MS] * (len(images) - 1) + [LAST_MS]

    def save(new: Path) -> None:
        images[0].save(
            new, "GIF", save_all=True, append_images=images[1:], duration=durations, loop=0
        )

    write_file(path, save, sync=False)


def write_record(
    folder: Path, request: GuideRequest, drawings: Sequence[tuple[int, Drawing]], stopped: bool
) -> Path:
    """Write what makes each image again, with its scores; return the record's path."""
    record = {
        "text": request.text,
        "prompts": [
            {"text": p.text, "image": str(p.image) if p.image else None, "weight": p.weight}
            for p in request.prompts
        ],
        "model": str(request.model),
        "encoder": str(request.encoder),
        "second": str(request.second) if request.second else None,
        "start": request.start,
        "image": str(request.image) if request.image else None,
        "config": asdict(request.config),
        "interrupted": stopped,
        "drawings": [_entry(request, seed, drawing) for seed, drawing in drawings],
    }
    write_json(folder / RECORD, record)
    return folder / RECORD


def _entry(request: GuideRequest, seed: int, drawing: Drawing) -> dict[str, Any]:
    best = drawing.best
    return {
        "file": f"{seed}.png",
        "seed": seed,
        "step": best.step,
        "score": best.score,
        "second": best.second,
        "way": [{"step": m.step, "score": m.score, "second": m.second} for m in drawing.way],
        "command": shlex.join(guide_command(request, seed)),
        "codes": best.codes.tolist(),
    }


def some(way: Sequence[Measured]) -> list[Measured]:
    """Return at most MOST_FRAMES of the measurements, evenly, the first and the last among them."""
    last = len(way) - 1
    count = min(len(way), MOST_FRAMES)
    return [way[round(i * last / max(1, count - 1))] for i in range(count)]


def _label(measured: Measured) -> str:
    second = "" if measured.second is None else f" {measured.second:.2f}"
    return f"{measured.step}: {measured.score:.2f}{second}"
