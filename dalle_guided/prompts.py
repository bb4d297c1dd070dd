"""Prompts with weights: "a red heart:1|blue:-0.3". Needs no torch."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from dalle_base.common.bounds import Bounds
from dalle_base.common.errors import UserError
from dalle_base.common.shown import is_writable, short

MOST_WEIGHT = 1000.0
"""Of one prompt, either way."""
PromptWeight = Annotated[float, Bounds(-MOST_WEIGHT, MOST_WEIGHT)]
MOST_PROMPTS = 100


@dataclass(frozen=True)
class Prompt:
    """What an image should show or, with a negative weight, should not."""

    text: str = ""
    """A caption; empty for an image."""
    image: Path | None = None
    """Instead: an image that it should resemble."""
    weight: PromptWeight = 1.0
    """How much it counts beside the others."""

    def __post_init__(self) -> None:
        """Raise `UserError` for a prompt that says nothing."""
        if self.image is None and not self.text.strip():
            raise UserError("a caption without text: write what the image should show")
        if not is_writable(self.text):
            raise UserError(f"caption {short(self.text)}: write it in UTF-8, without NUL")
        if not (abs(self.weight) <= MOST_WEIGHT and self.weight):
            raise UserError(
                f"weight of {self.name!r} is {self.weight:g}: write a number other than 0, "
                f"from -{MOST_WEIGHT:g} to {MOST_WEIGHT:g}"
            )

    @property
    def name(self) -> str:
        """What it is called in messages."""
        return self.text if self.image is None else str(self.image)

    def __str__(self) -> str:
        return f"{self.name}:{self.weight:g}"


def parse_prompts(text: str, images: Sequence[str] = ()) -> tuple[Prompt, ...]:
    """Return the prompts of "caption:weight|caption:weight" and of images, "path:weight".

    A weight that is left out is 1. What follows the last colon is a weight only if it is a number:
    "flag: poland" is a caption.

    Raises:
        UserError: a caption without text, a weight of 0, weights that sum to 0, too many prompts.
    """
    prompts = [Prompt(text=words, weight=weight) for words, weight in map(_split, text.split("|"))]
    prompts += [Prompt(image=Path(path), weight=weight) for path, weight in map(_split, images)]
    if len(prompts) > MOST_PROMPTS:
        raise UserError(f"{len(prompts)} prompts are too many: write at most {MOST_PROMPTS}")
    total = math.fsum(prompt.weight for prompt in prompts)
    if abs(total) < 1e-9:
        weights = ", ".join(f"{prompt.weight:g}" for prompt in prompts)
        raise UserError(f"the weights {weights} sum to nothing: change one of them")
    return tuple(prompts)


def _split(part: str) -> tuple[str, float]:
    words, colon, last = part.rpartition(":")
    if not colon:
        return part.strip(), 1.0
    try:
        return words.strip(), float(last)
    except ValueError:
        return part.strip(), 1.0
