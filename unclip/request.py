"""What sample.py is asked for of a DALL-E 2: an object for each caption. Needs no torch."""

import argparse
from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Annotated, Any

from dalle_base.common.arguments import Number, add_device, add_fields
from dalle_base.common.bounds import Bounds, From0, From1, Seed, Share, check_bounds
from dalle_base.common.captions import add_captions, take_captions
from dalle_base.common.errors import UserError
from dalle_base.common.output import identity
from dalle_base.common.shown import is_writable, short
from unclip.config import UnclipSampling

SETTINGS = tuple(each.name for each in fields(UnclipSampling))
"""Fields of `UnclipSampling` that a model's folder has values for."""
FLAGS = {"guidance_scale": "--guidance"}
"""Those whose flag has another name."""
FREE = ("out", "device", "preview")
"""Fields that change no image."""
Candidates = Annotated[int, Bounds(1, 1_000_000)]


@dataclass(frozen=True)
class UnclipRequest:
    """A caption, or an image to vary, a model, and how to sample."""

    text: str
    """The caption."""
    model: Path
    """The model's folder."""
    out: Path
    """Folder to write a folder into."""
    candidates: Candidates = 8
    """Images to sample."""
    seed: Seed = 0
    """Candidate k of a seed is always the same image."""
    first: From0 = 0
    """Number of the first candidate."""
    top: From1 | None = None
    """How many of the candidates to keep, the best first."""
    image: Path | None = None
    """Image whose embedding is decoded anew, in place of the prior's: variations."""
    blend_image: Path | None = None
    """Another image, towards whose embedding the first goes."""
    blend_text: str | None = None
    """Or a caption, towards whose embedding it goes."""
    blend: Share = 0.5
    """How far it goes."""
    settings: dict[str, Any] = field(default_factory=dict)
    """Fields of `UnclipSampling` that were asked for; the others are the model's own."""
    device: str = "auto"
    """Where the models run."""
    preview: bool = False
    """Whether to write images while they are sampled."""

    def __post_init__(self) -> None:
        """Raise `UserError` for options that make no sense, before anything is loaded."""
        for flag, text in (("--text", self.text), ("--blend-text", self.blend_text or "")):
            if not is_writable(text):
                raise UserError(f"{flag} is {short(text)}: write it in UTF-8, without NUL")
        if self.blend_text is not None and not self.blend_text.strip():
            raise UserError("--blend-text is empty: write what the image should show")
        check_bounds(self, flags=True)
        check_bounds(UnclipSampling(**self.settings), flags=True)
        if self.blend_image is not None and self.blend_text is not None:
            raise UserError("--blend-image and --blend-text exclude each other: give one")

    def identity(self) -> dict[str, Any]:
        """Return what tells this run from others, once `settings` has all of the model's."""
        return identity(self, FREE)


def parse_unclip_requests(
    description: str | None, argv: Sequence[str] | None = None
) -> list[UnclipRequest]:
    """Return what a command line asks for, of each caption.

    Raises:
        UserError: options that make no sense together; argparse itself ends with status 2.
    """
    parser = argparse.ArgumentParser(description=description)
    add_captions(parser)
    parser.add_argument("--model", type=Path, required=True, help="folder of a DALL-E 2")
    parser.add_argument(
        "--candidates", action=Number, kind=Candidates, default=8, help="images to sample"
    )
    parser.add_argument(
        "--seed",
        action=Number,
        kind=Seed,
        default=0,
        help="candidate k of a seed is always the same image",
    )
    parser.add_argument(
        "--first", action=Number, kind=From0, default=0, help="number of the first candidate"
    )
    parser.add_argument("--out", type=Path, default=Path("out"), help="folder to write into")
    parser.add_argument(
        "--top", action=Number, kind=From1, help="keep the best so many, by the dual encoder"
    )
    parser.add_argument(
        "--preview", action="store_true", help="write preview.png anew after each step"
    )
    images = parser.add_argument_group("an image to vary")
    images.add_argument("--image", type=Path, help="decode this image's embedding anew")
    images.add_argument(
        "--blend-image", type=Path, help="go from there, or from the caption, to this image"
    )
    images.add_argument("--blend-text", help="go to this caption instead")
    images.add_argument(
        "--blend", action=Number, kind=Share, default=0.5, help="how far to go (default: 0.5)"
    )
    _add_settings(parser.add_argument_group("how to sample (default: as the folder says)"))
    add_device(parser)
    options = vars(parser.parse_args(argv))
    given = {name: options.pop(name) for name in SETTINGS}
    settings = {name: value for name, value in given.items() if value is not None}
    captions = take_captions(options)
    return [UnclipRequest(text, **options, settings=settings) for text in captions]


def _add_settings(group: argparse._ArgumentGroup) -> None:
    helps = {
        "prior_steps": "steps of the prior",
        "prior_guidance": "above 1, the prior follows the caption more closely",
        "embeddings": "embeddings that the prior draws, the nearest to the caption is kept",
        "steps": "steps of the decoder",
        "guidance_scale": "above 1, the decoder follows its embedding more closely",
        "eta": "noise of the decoder's steps: 0 is DDIM, 1 is DDPM",
    }
    add_fields(group, UnclipSampling, helps, FLAGS, defaults=False)
    group.add_argument(
        "--read-text",
        action=argparse.BooleanOptionalAction,
        help="whether the decoder reads the caption as well",
    )
