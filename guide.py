"""From captions with weights to an image: the latents of a tokenizer are moved until a dual encoder
finds that the image fits (VQGAN+CLIP)."""

import dalle_base.common.interrupts  # noqa: F401  # isort: skip  # first of all

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from dalle_base.common.errors import command
from dalle_base.common.output import PREVIEW, Output, open_output
from dalle_guided.request import GuideRequest, parse_guide_request

if TYPE_CHECKING:
    from dalle_guided.drawing import Drawing
    from dalle_guided.models import GuideModels


@command
def main() -> int:
    request = parse_guide_request(__doc__)
    from dalle_base.common.device import announce, choose_device, enough_memory
    from dalle_guided.models import load_models

    device = choose_device(request.device)
    announce(device)
    with enough_memory("use fewer --cutouts, a smaller --size, or --device cpu"):
        models = load_models(request, device)
        request = replace(request, encoder=models.encoder_folder)
        with open_output(request.out, request.text, request.identity()) as output:
            return draw_all(request, models, output)


def draw_all(request: GuideRequest, models: "GuideModels", output: Output) -> int:
    """Draw and write an image of each seed; Ctrl-C keeps what is finished and what was begun."""
    from dalle_guided.record import write_drawing, write_record

    folder = output.folder
    print(f"drawing {request.drawings} of {request.config.steps} steps into {folder}", flush=True)
    drawings: list[tuple[int, Drawing]] = []
    files: list[str] = []
    stopped = False
    for seed in request.seeds:
        drawing, stopped = draw_one(request, models, folder, seed)
        if drawing.way:
            drawings.append((seed, drawing))
            files += write_drawing(folder, request, seed, drawing)
            print(folder / f"{seed}.png")
        if stopped:
            break
    if not drawings:
        raise KeyboardInterrupt
    (folder / PREVIEW).unlink(missing_ok=True)
    record = write_record(folder, request, drawings, stopped)
    output.finish([*files, record.name], finished=not stopped)
    print(record)
    return 130 if stopped else 0


def draw_one(
    request: GuideRequest, models: "GuideModels", folder: Path, seed: int
) -> "tuple[Drawing, bool]":
    """Return the drawing of a seed as far as it came, and whether Ctrl-C cut it short."""
    from tqdm import tqdm

    from dalle_guided.drawing import Drawing, draw, guide
    from dalle_guided.record import write_way

    config = request.config
    drawing = Drawing()
    codes = models.start(request, seed)
    way = guide(models.tokenizer, models.target, codes, config, seed, models.second)
    with tqdm(total=config.steps, desc=f"seed {seed}", unit="step", dynamic_ncols=True) as bar:

        def watch(drawing: Drawing) -> None:
            last = drawing.way[-1]
            scores = {"score": f"{last.score:.3f}"}
            if last.second is not None:
                scores["second"] = f"{last.second:.3f}"
            bar.set_postfix(scores, refresh=False)
            bar.update(last.step - bar.n)
            write_way(folder / PREVIEW, request, drawing)

        try:
            draw(way, config.patience, watch, drawing)
        except KeyboardInterrupt:
            return drawing, True
        if drawing.fell(config.patience):
            bar.write(
                f"seed {seed}: the second encoder's score has fallen: step "
                f"{drawing.best.step} is kept"
            )
    return drawing, False


if __name__ == "__main__":
    raise SystemExit(main())
