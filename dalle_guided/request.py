"""What guide.py is asked for: its arguments as one object. Needs no torch."""

import argparse
from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Annotated, Any

from dalle_base.common.arguments import Number, add_device, add_fields, flag_of, program
from dalle_base.common.bounds import Bounds, From1, Seed, check_bounds
from dalle_base.common.errors import UserError
from dalle_base.common.output import identity
from dalle_guided.config import STARTS, CutoutsConfig, GuidanceConfig
from dalle_guided.prompts import Prompt, parse_prompts

Candidates = Annotated[int, Bounds(1, 4096)]
Size = Annotated[int, Bounds(8, 2048)]
CUTOUTS = tuple(each.name for each in fields(CutoutsConfig))
FLAGS = {"count": "--cutouts"}
"""Of fields whose flag has another name."""
STEPS = ("steps", "step_size", "image_weight", "measure_every", "patience")


@dataclass(frozen=True)
class GuideRequest:
    """Prompts, models, a start, and how to move from there."""

    text: str
    """The prompts as they were written; they name the folder."""
    prompts: tuple[Prompt, ...]
    """What the image should show and should not."""
    model: Path
    """Folder of a text-to-image model, or of a tokenizer alone."""
    out: Path
    """Folder to write a folder into."""
    encoder: Path | None = None
    """Folder of the dual encoder that guides; None: the model's reranker."""
    second: Path | None = None
    """Folder of a dual encoder that only watches; its falling score ends a drawing."""
    start: str = "noise"
    """One of STARTS."""
    image: Path | None = None
    """What an image's drawing starts from."""
    sampled: Candidates = 16
    """Candidates of which the best is the start."""
    size: Size | None = None
    """Side of the image in pixels; None: the tokenizer's own."""
    drawings: From1 = 1
    """Images to draw, each with a seed of its own."""
    seed: Seed = 0
    """Of the first image."""
    config: GuidanceConfig = field(default_factory=GuidanceConfig)
    """How to move."""
    device: str = "auto"
    """Where the models run."""

    def __post_init__(self) -> None:
        """Raise `UserError` for options that make no sense, before anything is loaded."""
        check_bounds(self, flags=True)
        if (self.start == "image") != (self.image is not None):
            raise UserError("--start image and --image FILE go together: give both")
        if self.start == "sampled" and self.prompts[0].image is not None:
            raise UserError("--start sampled samples the first prompt, which must be a caption")
        if self.start == "sampled" and self.prompts[0].weight < 0:
            raise UserError(
                "--start sampled samples the first prompt: put one with a weight above 0"
            )

    @property
    def seeds(self) -> range:
        """The seed of each image."""
        return range(self.seed, self.seed + self.drawings)

    def identity(self) -> dict[str, Any]:
        """Return what tells this run from others."""
        return identity(self, ("out", "device"))


def parse_guide_request(description: str | None, argv: Sequence[str] | None = None) -> GuideRequest:
    """Return what a command line asks for.

    Raises:
        UserError: options that make no sense together; argparse itself ends with status 2.
    """
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument(
        "--text",
        required=True,
        help='captions with weights, "a red heart:1|blue:-0.3"; those below 0 repel',
    )
    parser.add_argument(
        "--prompt-image",
        nargs="+",
        default=[],
        metavar="FILE[:WEIGHT]",
        help="images that the drawing should resemble",
    )
    parser.add_argument(
        "--model",
        type=Path,
        default=Path("models/emoji"),
        help="folder of a text-to-image model, or of a tokenizer (default: %(default)s)",
    )
    parser.add_argument("--out", type=Path, default=Path("out/guided"), help="folder to write into")
    parser.add_argument(
        "--drawings", action=Number, kind=From1, default=1, help="images to draw (default: 1)"
    )
    parser.add_argument(
        "--seed",
        action=Number,
        kind=Seed,
        default=0,
        help="of the first image; it fixes everything",
    )
    _add_encoders(parser.add_argument_group("dual encoders"))
    _add_start(parser.add_argument_group("where it starts"))
    _add_steps(parser.add_argument_group("how it moves"))
    _add_cutouts(parser.add_argument_group("what the encoder is shown in each step"))
    add_device(parser)
    options = vars(parser.parse_args(argv))
    prompts = parse_prompts(options["text"], options.pop("prompt_image"))
    cutouts = CutoutsConfig(**{name: options.pop(name) for name in CUTOUTS})
    steps = {name: options.pop(name) for name in STEPS}
    if options["start"] is None:
        options["start"] = "noise" if options["image"] is None else "image"
    return GuideRequest(**options, prompts=prompts, config=GuidanceConfig(**steps, cutouts=cutouts))


def _add_encoders(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--encoder", type=Path, help="the one that guides (default: the model's reranker)"
    )
    group.add_argument(
        "--second",
        type=Path,
        help="one that only watches: where its score falls, the drawing ends and its best image "
        "is kept",
    )


def _add_start(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--start",
        choices=STARTS,
        help="random codes, --image, or the best candidate that the model samples (default: noise, "
        "or image where there is one)",
    )
    group.add_argument("--image", type=Path, help="an image to start from")
    group.add_argument(
        "--sampled",
        action=Number,
        kind=Candidates,
        default=16,
        help="candidates that --start sampled chooses from (default: %(default)s)",
    )
    group.add_argument(
        "--size",
        action=Number,
        kind=Size,
        help="side of the image in pixels, where the tokenizer is made of convolutions (default: "
        "its own)",
    )


def _add_steps(group: argparse._ArgumentGroup) -> None:
    helps = {
        "steps": "updates at most",
        "step_size": "of Adam on the latents",
        "image_weight": "pull back to the image that it starts from",
        "measure_every": "steps between frames and scores",
        "patience": "measurements in which --second may find nothing better",
    }
    add_fields(group, GuidanceConfig, helps, FLAGS)


def _add_cutouts(group: argparse._ArgumentGroup) -> None:
    helps = {
        "count": "cutouts",
        "zoomed": "share of them that are crops",
        "smallest": "smallest side of a crop, as a share of the image's",
        "degrees": "most that one is turned",
        "shear": "most that one is sheared",
        "colour": "most that brightness and contrast change",
        "noise": "largest standard deviation of noise",
    }
    add_fields(group, CutoutsConfig, helps, FLAGS)


def guide_command(request: GuideRequest, seed: int) -> list[str]:
    """Return the words of the command that draws the image of one seed again."""
    words: list[object] = [*program("guide"), "--text", request.text]
    images = [prompt for prompt in request.prompts if prompt.image]
    if images:
        words += ["--prompt-image", *images]
    words += ["--model", request.model, "--seed", seed, "--start", request.start]
    if request.start == "sampled":
        words += ["--sampled", request.sampled]
    for name in ("encoder", "second", "image", "size"):
        if (value := getattr(request, name)) is not None:
            words += [f"--{name}", value]
    for config, names in ((request.config, STEPS), (request.config.cutouts, CUTOUTS)):
        for name in names:
            words += [flag_of(name, FLAGS), getattr(config, name)]
    return [str(word) for word in words]
