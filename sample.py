"""From captions to images: sample candidates, write each of them, a labelled grid and a JSON."""

import dalle_base.common.interrupts  # noqa: F401  # isort: skip  # first of all

import math
import sys
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from dalle.request import Request, parse_requests
from dalle_base.common.errors import UserError, command
from dalle_base.common.model_folders import UNCLIP, asks_for
from dalle_base.common.output import PREVIEW
from dalle_base.common.several import Sampled, sample_each
from unclip.script import sample_unclip

if TYPE_CHECKING:
    import torch

    from dalle.generate import Progress
    from dalle.text_to_image import Samples, TextToImage

PREVIEWED = 16
"""Images of a batch that --preview shows."""


@command
def main() -> int:
    if asks_for(UNCLIP, sys.argv[1:]):
        return sample_unclip(__doc__)
    requests = parse_requests(__doc__)
    from dalle.together import Shared, take_part, together
    from dalle_base.common.device import announce, choose_device, enough_memory

    first = requests[0]
    now = {"candidates": first.sampling.candidates, "memory": f"{first.memory:g} GB"}
    advice = "sample fewer --candidates, lower --memory, use --precision bfloat16 or --device cpu"
    with enough_memory(advice, **now, precision=first.precision), together(first.device) as own:
        device = own or choose_device(first.device)
        announce(device)
        whole, same = load(first, device)
        model = take_part(whole, Shared)
        if model is None:
            return 0
        requests = [replace(same, text=each.text) for each in requests]
        if same.only_asks:
            from dalle.answers import answer

            print(*(answer(model, each) for each in requests), sep="\n")
            return 0
        return sample_each(requests, partial(sample, model))


def load(request: Request, device: "torch.device") -> "tuple[TextToImage, Request]":
    """Return the models, and the request with the settings that the models have for it."""
    from dalle.checkpoint import RERANKER, load_text_to_image
    from dalle.memory import fitting_batch
    from dalle_base.common.device import choose_precision

    request = replace(request, precision=choose_precision(request.precision, device))
    model = load_text_to_image(
        request.model,
        device=device,
        precision=request.precision,
        compiled=request.compile,
        reranker=request.reranker,
        rerank=request.rerank is not False,
    )
    if model.reranker is None and (request.rerank or request.top):
        raise UserError(f"{request.model} has no {RERANKER} to rank with: name one by --reranker")
    own = {k: v for k, v in asdict(model.sampling).items() if k not in request.asked}
    sampling = replace(request.sampling, **own)
    memory, guided = int(request.memory * 1e9), sampling.guidance_scale != 1
    batch_size = fitting_batch(model.transformer, memory, guided=guided)
    sampling = replace(sampling, batch_size=batch_size)
    reranker = request.reranker or request.model / RERANKER
    return model, replace(request, sampling=sampling, reranker=reranker)


def sample(model: "TextToImage", request: Request, folder: Path) -> Sampled:
    """Sample and write what is asked for; Ctrl-C keeps the batches that are complete."""
    from dalle.record import GRID, RECORD, write

    if cut := model.text_tokenizer.cut(request.text, model.transformer.config.text_length):
        print(f"warning: {cut}", file=sys.stderr)
    given = None
    if request.image:
        from dalle.prompt import read_prompt

        given = read_prompt(model, request)
    samples, stopped = sample_all(model, request, given, folder)
    count, scores = len(samples.images), None
    if model.reranker:
        samples, scores = best_first(model, samples, request)
    files = write(folder, request, samples, given, scores)
    if stopped:
        left = request.sampling.candidates - count
        rest = f"--first {request.sampling.first + count} --candidates {left}"
        print(f"interrupted: kept {count} candidates in {folder}; {rest} samples the rest")
        return Sampled(files, finished=False)
    kept = f"the best {len(samples.images)} of " if len(samples.images) < count else ""
    rest = f"the grid {folder / GRID} and {folder / RECORD}"
    print(f"wrote {kept}{count} candidates to {folder}, {rest}")
    return Sampled(files)


def sample_all(
    model: "TextToImage", request: Request, given: "torch.Tensor | None", folder: Path
) -> "tuple[Samples, bool]":
    """Return the candidates, and whether Ctrl-C cut them short."""
    from tqdm import tqdm

    from dalle.record import write_preview
    from dalle.text_to_image import join

    columns = model.tokenizer.columns
    parts: list[Samples] = []
    with tqdm(desc="sampling", unit="row", dynamic_ncols=True) as bar:

        def progress(at: "Progress") -> None:
            bar.total = math.ceil(at.steps / columns)
            bar.update(at.step // columns - bar.n)
            if request.preview and (at.step % columns == 0 or at.step == at.steps):
                images = model.images(at.codes[:PREVIEWED])
                write_preview(folder / PREVIEW, images, request.text)

        try:
            parts += model.batches(request.text, request.sampling, given, progress)
        except KeyboardInterrupt:
            if not parts:
                raise
            return join(parts), True
    return join(parts), False


def best_first(
    model: "TextToImage", samples: "Samples", request: Request
) -> "tuple[Samples, list[float]]":
    """Return the candidates as the reranker orders them, `top` at most, and their scores."""
    from dual_encoder.rank import cut

    if model.reranker and (where := cut(model.reranker, samples.captions[0])):
        print(f"warning: the reranker's {where}", file=sys.stderr)
    scores = model.rank(samples, request.sampling.likelihood_weight)
    order = scores.argsort(descending=True, stable=True)[: request.top]
    return samples.select(order.tolist()), scores[order].tolist()


if __name__ == "__main__":
    raise SystemExit(main())
