"""Many captions in one run: a folder each, one overview, and going on where a run was stopped."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol, TypeVar

from dalle_base.common.errors import UserError
from dalle_base.common.output import PREVIEW, Output, open_output
from dalle_base.common.report import say, shown, write_json

OVERVIEW, MOST = "overview", 256
"""Name of the overview's folder, and how many captions it shows."""
STOPPED = 130
"""Status to end with where Ctrl-C cut a run short."""


class Sampled(NamedTuple):
    """What came of a caption."""

    files: list[str]
    """Names of files in its folder, the best image first."""
    finished: bool = True
    """Whether it is all that was asked for."""


class Asked(Protocol):
    """A caption, and how to sample it."""

    @property
    def text(self) -> str:
        """The caption."""
        ...

    @property
    def out(self) -> Path:
        """Folder to write folders into."""
        ...

    def identity(self) -> dict[str, Any]:
        """Return what tells its run from others."""
        ...


R = TypeVar("R", bound=Asked)


def sample_each(requests: Sequence[R], sample: Callable[[R, Path], Sampled]) -> int:
    """Sample each request into a folder of its own; return the status to end with.

    Of several, those that an earlier run has finished are passed over, those that cannot be sampled
    are named, and an overview shows the best of each.
    """

    def into(request: R, output: Output) -> bool:
        made = sample(request, output.folder)
        output.finish([*made.files, PREVIEW], made.finished)
        return made.finished

    if len(requests) == 1:
        (request,) = requests
        with open_output(request.out, request.text, request.identity()) as output:
            return 0 if into(request, output) else STOPPED
    outputs: list[tuple[str, Output]] = []
    failed = 0
    print(f"{len(requests)} captions, a folder each in {requests[0].out}", flush=True)
    for number, request in enumerate(requests, 1):
        place = f"{number}/{len(requests)} {shown(request.text)}"
        with open_output(request.out, request.text, request.identity()) as output:
            if output.finished:
                print(f"{place}: finished earlier, in {output.folder}", flush=True)
            else:
                print(place, flush=True)
                try:
                    finished = into(request, output)
                except UserError as error:
                    say(f"error: {shown(request.text)}: {error}", error=True)
                    failed += 1
                    continue
                if not finished:
                    print("run the same command again to go on from here")
                    return STOPPED
            outputs.append((request.text, output))
    if outputs:
        print(f"wrote the overview {write_overview(requests[0].out, outputs)}")
    if failed:
        raise UserError(f"{failed} of {len(requests)} captions could not be sampled")
    return 0


def write_overview(out: Path, outputs: Sequence[tuple[str, Output]]) -> Path:
    """Write the best image of each caption as one sheet, and where each is; return its path."""
    from dalle_base.common.images import grid, save_image
    from dalle_base.common.opening import open_image

    places = [
        {"text": text, "folder": output.folder.name, "best": output.files[0]}
        for text, output in outputs
    ]
    with open_output(out, OVERVIEW, {"captions": places}) as own:
        some = outputs[:MOST]
        images = [open_image(output.folder / output.files[0]) for _, output in some]
        across = min(len(images), max(4, round(len(images) ** 0.5)))
        labels = [text[:24] for text, _ in some]
        more = f" of {len(outputs)}" if len(outputs) > MOST else ""
        sheet = own.folder / "overview.png"
        title = f"the best of {len(some)}{more} captions"
        save_image(grid(images, across, labels, title, scale=2), sheet)
        write_json(own.folder / "overview.json", places)
        own.finish([sheet.name, "overview.json"])
    return sheet
