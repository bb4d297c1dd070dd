"""What `sample.py` is asked for: an object for each caption. Needs no torch."""

import argparse
from collections.abc import Sequence
from dataclasses import dataclass, field, fields, replace
from functools import partial
from pathlib import Path
from typing import Any

from dalle.config import PRECISIONS, Sampling, SamplingDefaults
from dalle_base.common.arguments import add_device, program
from dalle_base.common.bounds import Above0, From0, From1, check_bounds
from dalle_base.common.captions import add_captions, take_captions
from dalle_base.common.errors import UserError
from dalle_base.common.output import identity
from dalle_base.common.shown import is_writable, short

SETTINGS = tuple(each.name for each in fields(SamplingDefaults))
"""Fields of `Sampling` that a model's folder has values for."""

FREE = ("asked", "out", "memory", "device", "preview", "dry_run", "log_likelihood", "program")
"""Fields that change no image."""


@dataclass(frozen=True)
class Request:
    """A caption, a model, and how to sample: enough to sample each candidate again."""

    text: str
    """The caption."""
    model: Path
    """The model's folder."""
    out: Path
    """Folder to write a folder into."""
    sampling: Sampling = field(default_factory=Sampling)
    """How, and how many candidates."""
    asked: tuple[str, ...] = ()
    """Fields of `sampling` that were asked for; the others give way to the model's own."""
    rerank: bool | None = None
    """Whether to score the candidates; None for: where there is a reranker."""
    reranker: Path | None = None
    """The reranker's folder; None for the model's own."""
    top: From1 | None = None
    """How many of the candidates to keep, the best first."""
    image: Path | None = None
    """An image of which a part is kept."""
    keep_rows: From0 | None = None
    """Rows of its codes to keep."""
    redraw_from: tuple[From0, From0] | None = None
    """Instead: row and column of the code from which a rectangle is sampled anew."""
    mask: Path | None = None
    """Instead: an image that is white, or transparent, where codes are sampled anew."""
    memory: Above0 = 4.0
    """GB that caches may take."""
    precision: str = "auto"
    """Of the transformer's weights; auto for the one that suits the device."""
    compile: bool = False
    """Whether the decoding step is compiled."""
    device: str = "auto"
    """Where the models run."""
    preview: bool = False
    """Whether to write images while they are sampled."""
    dry_run: bool = False
    """Whether to print the cache size instead."""
    log_likelihood: bool = False
    """Whether to print how likely the image is instead."""
    program: list[str] = field(default_factory=partial(program, "sample"))
    """The words that a command to repeat an image begins with."""

    def __post_init__(self) -> None:
        """Raise `UserError` for options that make no sense, before anything is loaded."""
        if not is_writable(self.text):
            raise UserError(f"--text is {short(self.text)}: write it in UTF-8, without NUL")
        check_bounds(self, flags=True)
        if self.top is not None and self.rerank is False:
            raise UserError("--top keeps what the reranker likes best: leave --no-rerank out")
        parts = (self.keep_rows, self.redraw_from, self.mask)
        asked = [part for part in parts if part is not None]
        if asked and self.image is None:
            raise UserError("--keep-rows, --redraw-from and --mask need --image, what to keep of")
        if self.image is None and self.log_likelihood:
            raise UserError("--log-likelihood needs --image, the image in question")
        if len(asked) > 1:
            raise UserError("--keep-rows, --redraw-from and --mask exclude one another: give one")

    @property
    def only_asks(self) -> bool:
        """Whether the answer is a line, and nothing is sampled."""
        return self.log_likelihood or self.dry_run

    def identity(self) -> dict[str, Any]:
        """Return what tells this run from others, once `sampling` is as the model has it."""
        return identity(replace(self, sampling=replace(self.sampling, batch_size=1)), FREE)


def parse_requests(description: str | None, argv: Sequence[str] | None = None) -> list[Request]:
    """Return what a command line asks for, of each caption.

    Raises:
        UserError: options that make no sense together; argparse itself ends with status 2.
    """
    parser = argparse.ArgumentParser(description=description)
    add_captions(parser)
    parser.add_argument("--model", type=Path, default=Path("models/emoji"), help="model folder")
    parser.add_argument("--candidates", type=int, default=8, help="images to sample")
    parser.add_argument(
        "--seed", type=int, default=0, help="candidate k of a seed is always the same image"
    )
    parser.add_argument("--first", type=int, default=0, help="number of the first candidate")
    add_settings(parser)
    parser.add_argument("--out", type=Path, default=Path("out"), help="folder to write into")
    parser.add_argument("--top", type=int, help="keep the best so many, as the reranker scores")
    parser.add_argument(
        "--rerank",
        action=argparse.BooleanOptionalAction,
        help="score the candidates and show the best first (default: where there is a reranker)",
    )
    parser.add_argument(
        "--reranker", type=Path, help="a dual encoder's folder (default: MODEL/reranker)"
    )
    parser.add_argument(
        "--preview", action="store_true", help="write preview.png anew after each row of codes"
    )
    _add_prompt(parser.add_argument_group("an image to start from"))
    _add_speed(parser.add_argument_group("speed and memory"))
    options = vars(parser.parse_args(argv))
    if options["redraw_from"] is not None:
        options["redraw_from"] = tuple(options["redraw_from"])
    asked = take_settings(options)
    numbers = {name: options.pop(name) for name in ("candidates", "seed", "first")}
    captions, sampling = take_captions(options), Sampling(**numbers, **asked)
    return [Request(text, **options, sampling=sampling, asked=tuple(asked)) for text in captions]


def add_settings(parser: argparse.ArgumentParser) -> None:
    """Add the flags of SETTINGS; each is None where it is left out."""
    settings = parser.add_argument_group("how to sample (default: as the model's folder says)")
    settings.add_argument("--temperature", type=float, help="1 is the paper's")
    settings.add_argument("--top-k", type=int, help="keep the k likeliest codes; 0: all")
    settings.add_argument("--top-p", type=float, help="keep the likeliest share p")
    settings.add_argument(
        "--guidance",
        type=float,
        dest="guidance_scale",
        help="above 1 follows the caption more closely; 1 is the paper's",
    )
    settings.add_argument(
        "--likelihood-weight",
        type=float,
        help="what a nat of log-likelihood adds to the reranker's score; 0 is the paper's",
    )


def take_settings(options: dict[str, Any]) -> dict[str, Any]:
    """Remove the flags of `add_settings` from options; return those that were given."""
    given = {name: options.pop(name) for name in SETTINGS}
    return {name: value for name, value in given.items() if value is not None}


def _add_prompt(kept: argparse._ArgumentGroup) -> None:
    kept.add_argument("--image", type=Path, help="image of which a part is kept")
    kept.add_argument("--keep-rows", type=int, help="its top rows of codes (default: half)")
    kept.add_argument(
        "--redraw-from",
        type=int,
        nargs=2,
        metavar=("ROW", "COLUMN"),
        help="instead: keep all of it but the codes from here to the bottom right corner",
    )
    kept.add_argument(
        "--mask", type=Path, help="instead: keep all of it but where this image is white, or clear"
    )
    kept.add_argument(
        "--log-likelihood",
        action="store_true",
        help="print how likely the image is under the caption, and sample nothing",
    )


def _add_speed(speed: argparse._ArgumentGroup) -> None:
    add_device(speed)
    speed.add_argument(
        "--memory", type=float, default=4.0, help="limit caches to so many GB; more go in batches"
    )
    speed.add_argument("--dry-run", action="store_true", help="print the cache size; no sampling")
    speed.add_argument(
        "--precision",
        choices=("auto", *PRECISIONS),
        default="auto",
        help="of the transformer's weights (auto: bfloat16 on a GPU that has it, else float32)",
    )
    speed.add_argument(
        "--compile",
        action="store_true",
        help="compile the decoding step: half a minute first, then several times faster",
    )
