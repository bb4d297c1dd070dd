"""What app.py is asked for: its arguments as one object. Needs neither torch nor Gradio."""

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from dalle_base.common.arguments import Number, add_device
from dalle_base.common.bounds import Bounds, check_bounds

Port = Annotated[int, Bounds(0, 65535)]
MostCandidates = Annotated[int, Bounds(1, 64)]
Waiting = Annotated[int, Bounds(1, 10_000)]
STYLES = ("noto", "twemoji", "blob", "fluent 3d", "fluent flat", "emojione", "fxemoji")
"""Artists that captions of the shipped emoji name."""


@dataclass(frozen=True)
class AppRequest:
    """A model, and where its page is."""

    model: Path = Path("models/emoji")
    """The model's folder."""
    host: str | None = None
    """Address to listen at; None: 127.0.0.1, or what GRADIO_SERVER_NAME says, as on a hub Space."""
    port: Port | None = None
    """Port to listen at; None: the first free one from 7860 on."""
    styles: tuple[str, ...] = STYLES
    """Styles to choose from: a caption is then "CAPTION, STYLE style"."""
    most: MostCandidates = 16
    """Candidates that a visitor may ask for."""
    waiting: Waiting = 32
    """Visitors that may wait; more are told to come again."""
    device: str = "auto"
    """Where the models run."""

    def __post_init__(self) -> None:
        """Raise `UserError` for options that make no sense."""
        check_bounds(self, flags=True)


def parse_app_request(description: str | None, argv: Sequence[str] | None = None) -> AppRequest:
    """Return what a command line asks for. Raises `UserError`."""
    usual = AppRequest()
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--model", type=Path, default=usual.model, help="model folder")
    parser.add_argument(
        "--host", help="address to listen at (default: 127.0.0.1; 0.0.0.0 lets others in)"
    )
    parser.add_argument("--port", action=Number, kind=Port, help="port (default: from 7860 on)")
    parser.add_argument(
        "--styles",
        nargs="*",
        default=usual.styles,
        metavar="STYLE",
        help="styles to choose from (default: those of the shipped emoji)",
    )
    parser.add_argument(
        "--most",
        action=Number,
        kind=MostCandidates,
        default=usual.most,
        help="candidates that a visitor may ask for",
    )
    parser.add_argument(
        "--waiting",
        action=Number,
        kind=Waiting,
        default=usual.waiting,
        help="visitors that may wait",
    )
    add_device(parser)
    options = vars(parser.parse_args(argv))
    options["styles"] = tuple(options["styles"])
    return AppRequest(**options)
