"""What sampling leaves behind: images, a labelled grid, and a JSON that says how to repeat each."""

import json
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from PIL import Image
from torch import Tensor

from dalle.generate import TO_SAMPLE
from dalle.request import Request
from dalle.text_to_image import Samples
from dalle_base.common.errors import UserError
from dalle_base.common.images import grid, save_image

RECORD, GRID = "samples.json", "grid.png"


def repeat_command(request: Request, candidate: int) -> str:
    """Return the command line that samples one candidate alone."""
    sampling = request.sampling
    words = [*request.program, "--text", request.text, "--model", request.model]
    words += ["--seed", sampling.seed, "--first", candidate, "--candidates", 1]
    words += ["--temperature", sampling.temperature, "--guidance", sampling.guidance_scale]
    words += ["--top-k", sampling.top_k, "--top-p", sampling.top_p]
    words += ["--precision", request.precision] * (request.precision != "float32")
    words += ["--compile"] * request.compile
    for name in ("image", "keep_rows", "mask"):
        if (value := getattr(request, name)) is not None:
            words += ["--" + name.replace("_", "-"), value]
    words += ["--redraw-from", *request.redraw_from] if request.redraw_from else []
    return shlex.join(map(str, words))


def write(
    folder: Path,
    request: Request,
    samples: Samples,
    given: Tensor | None,
    scores: Sequence[float] | None = None,
) -> list[str]:
    """Write candidates, grid, record; return the files' names. Raises `UserError`: cannot.

    Args:
        folder: exists.
        request: what was asked for, with the sampling as it was.
        samples: the candidates of one caption.
        given: [RC] codes that were kept, if any.
        scores: the reranker's, in whose order the candidates then come.
    """
    names = [f"{request.sampling.seed}-{k:03d}.png" for k in samples.candidates]
    likelihoods = samples.log_likelihood.tolist()
    values = [f"{v:.0f}" for v in likelihoods] if scores is None else [f"{v:.1f}" for v in scores]
    labels = [f"#{k}  {value}" for k, value in zip(samples.candidates, values, strict=True)]
    candidates = [
        {
            "file": name,
            "candidate": candidate,
            "log_likelihood": value,
            "score": score,
            "command": repeat_command(request, candidate),
            "codes": codes,
        }
        for name, candidate, value, score, codes in zip(
            names,
            samples.candidates,
            likelihoods,
            scores or [None] * len(names),
            samples.codes.tolist(),
            strict=True,
        )
    ]
    record = _settings(request, given, scores is not None) | {"candidates": candidates}
    try:
        for name, image in zip(names, samples.images, strict=True):
            image.save(folder / name)
        sheet(samples.images, labels, request.text).save(folder / GRID)
        (folder / RECORD).write_text(json.dumps(record, indent=1), encoding="utf-8")
    except OSError as error:
        raise UserError(f"cannot write into {folder}: {error.strerror}; set --out") from None
    return [*names, GRID, RECORD]


def _settings(request: Request, given: Tensor | None, ranked: bool) -> dict[str, Any]:
    """What all candidates have in common."""
    sampling = request.sampling
    return {
        "text": request.text,
        "model": str(request.model),
        "seed": sampling.seed,
        "temperature": sampling.temperature,
        "top_k": sampling.top_k,
        "top_p": sampling.top_p,
        "guidance": sampling.guidance_scale,
        "likelihood_weight": sampling.likelihood_weight if ranked else None,
        "precision": request.precision,
        "image": str(request.image) if request.image else None,
        "mask": str(request.mask) if request.mask else None,
        "reranker": str(request.reranker) if ranked else None,
        "kept_codes": 0 if given is None else int((given != TO_SAMPLE).sum()),
    }


def sheet(images: list[Image.Image], labels: list[str] | None, title: str) -> Image.Image:
    """Return a grid that is not much taller than wide, of images at twice their size."""
    return grid(images, min(len(images), max(8, round(len(images) ** 0.5))), labels, title, scale=2)


def write_preview(path: Path, images: list[Image.Image], title: str) -> None:
    """Write images that are not yet complete, so that a viewer never sees half a file."""
    save_image(sheet(images, None, title), path)
