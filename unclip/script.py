"""sample.py for a DALL-E 2: sample candidates, write each of them, a labelled grid and a record."""

import json
import shlex
import sys
from collections.abc import Sequence
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dalle_base.common.arguments import flag_of, program
from dalle_base.common.errors import UserError
from dalle_base.common.output import PREVIEW
from dalle_base.common.several import Sampled, sample_each
from unclip.config import UnclipSampling
from unclip.request import FLAGS, UnclipRequest, parse_unclip_requests

if TYPE_CHECKING:
    from torch import Tensor

    from unclip.model import Decoded, Unclip

PREVIEWED = 16
"""Images of a batch that --preview shows."""


def sample_unclip(description: str | None, argv: Sequence[str] | None = None) -> int:
    """Do what a command line asks of a DALL-E 2. Raises `UserError`."""
    requests = parse_unclip_requests(description, argv)
    from dalle.together import take_part, together
    from dalle_base.common.device import announce, choose_device, enough_memory

    try:
        from unclip.model import load_unclip
    except ModuleNotFoundError as error:
        raise UserError(
            f"a DALL-E 2 needs {error.name}: pip install 'dalle-from-scratch[unclip]'"
        ) from None
    from unclip.together import Shared

    advice = "sample fewer --candidates, or use --device cpu"
    now = {"candidates": requests[0].candidates}
    with enough_memory(advice, **now), together(requests[0].device) as own:
        device = own or choose_device(requests[0].device)
        announce(device)
        model = take_part(load_unclip(requests[0].model, device), Shared)
        if model is None:
            return 0
        sampling = replace(model.sampling, **requests[0].settings)
        requests = [replace(each, settings=asdict(sampling)) for each in requests]
        return sample_each(requests, partial(sample, model, sampling))


def sample(
    model: "Unclip", sampling: UnclipSampling, request: UnclipRequest, folder: Path
) -> Sampled:
    """Sample and write what is asked for."""
    warn_of_cut(model, request.text)
    embedding = given_embedding(model, request, sampling)
    decoded = sample_all(model, request, sampling, embedding, folder)
    scores = model.rank(decoded)
    order = scores.argsort(descending=True, stable=True)[: request.top].tolist()
    files = write(folder, request, decoded.select(order), scores[order].tolist())
    kept = f"the best {len(order)} of " if len(order) < request.candidates else ""
    sheet = folder / files[-2]
    print(f"wrote {kept}{request.candidates} candidates to {folder} and the grid {sheet}")
    return Sampled(files)


def warn_of_cut(model: "Unclip", caption: str) -> None:
    """Say where the dual encoder stops reading a caption, if it is too long."""
    from dual_encoder.rank import cut

    if where := cut(model.encoder, caption):
        print(f"warning: {where}", file=sys.stderr)


def given_embedding(
    model: "Unclip", request: UnclipRequest, sampling: UnclipSampling
) -> "Tensor | None":
    """Return the embedding [1, E] to decode: an image's, or one between two; None: the prior's.

    Raises `UserError` for an image that cannot be read.
    """
    from dalle_base.common.opening import read_image
    from unclip.model import slerp

    start = None
    if request.image is not None:
        start = model.embedding_of(read_image(request.image, "--image"))
    if request.blend_image is None and request.blend_text is None:
        return start
    if start is None:
        start = drawn_embedding(model, request.text, request.seed, sampling)
    if request.blend_image is not None:
        other = model.embedding_of(read_image(request.blend_image, "--blend-image"))
    else:
        other = drawn_embedding(model, request.blend_text or "", request.seed, sampling)
    return slerp(start, other, request.blend)


def drawn_embedding(model: "Unclip", caption: str, seed: int, sampling: UnclipSampling) -> "Tensor":
    """Return the embedding [1, E] that the prior draws of a caption, for all candidates alike."""
    from unclip.reading import read_captions

    noise = model.noises([(seed, 0)], sampling)[0]
    return model.embed(read_captions(model.encoder, [caption]), noise, sampling)


def sample_all(
    model: "Unclip",
    request: UnclipRequest,
    sampling: UnclipSampling,
    embedding: "Tensor | None",
    folder: Path,
) -> "Decoded":
    """Return the candidates, with a progress bar and perhaps a preview."""
    from tqdm import tqdm

    from dalle.record import write_preview
    from dalle_base.common.images import to_image

    with tqdm(desc="sampling", unit="step", dynamic_ncols=True) as bar:

        def progress(done: int, total: int, images: "Tensor") -> None:
            bar.total = total
            bar.update(done - bar.n)
            if request.preview:
                some = [to_image(image) for image in images[:PREVIEWED]]
                write_preview(folder / PREVIEW, some, request.text)

        return model.generate(
            request.text,
            request.candidates,
            request.seed,
            request.first,
            sampling=sampling,
            embeddings=embedding,
            progress=progress,
        )


def write(
    folder: Path, request: UnclipRequest, decoded: "Decoded", scores: Sequence[float]
) -> list[str]:
    """Write candidates, grid and record; return the files' names. Raises `UserError`: cannot."""
    from dalle.record import GRID, RECORD, sheet

    names = [f"{request.seed}-{k:03d}.png" for k in decoded.candidates]
    candidates = [
        {
            "file": name,
            "candidate": candidate,
            "score": score,
            "command": repeat_command(request, candidate),
            "embedding": embedding,
        }
        for name, candidate, score, embedding in zip(
            names, decoded.candidates, scores, decoded.embeddings.tolist(), strict=True
        )
    ]
    record = {
        "text": request.text,
        "model": str(request.model),
        "seed": request.seed,
        **request.settings,
        "image": str(request.image) if request.image else None,
        "candidates": candidates,
    }
    labels = [f"#{k}  {s:.1f}" for k, s in zip(decoded.candidates, scores, strict=True)]
    try:
        for name, image in zip(names, decoded.images, strict=True):
            image.save(folder / name)
        sheet(decoded.images, labels, request.text).save(folder / GRID)
        (folder / RECORD).write_text(json.dumps(record, indent=1), encoding="utf-8")
    except OSError as error:
        raise UserError(f"cannot write into {folder}: {error.strerror}; set --out") from None
    return [*names, GRID, RECORD]


def repeat_command(request: UnclipRequest, candidate: int) -> str:
    """Return the command line that samples one candidate alone."""
    words: list[Any] = [*program("sample"), "--text", request.text, "--model", request.model]
    words += ["--seed", request.seed, "--first", candidate, "--candidates", 1]
    for name, value in request.settings.items():
        flag = flag_of(name, FLAGS)
        if isinstance(value, bool):
            words += [flag if value else flag.replace("--", "--no-", 1)]
        else:
            words += [flag, value]
    for name in ("image", "blend_image", "blend_text"):
        if (value := getattr(request, name)) is not None:
            words += ["--" + name.replace("_", "-"), value]
    if request.blend_image is not None or request.blend_text is not None:
        words += ["--blend", request.blend]
    return shlex.join(map(str, words))
