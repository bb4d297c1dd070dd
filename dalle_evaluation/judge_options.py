"""What the judge is asked for (`evaluate.py --judge`). Needs no torch."""

import argparse
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from dalle.config import Candidates
from dalle_base.common.arguments import Number
from dalle_base.common.bounds import Bounds, check_bounds
from dalle_base.common.errors import UserError

CONCEPTS = 500
"""Concepts among which an image has to find its own."""
Concepts = Annotated[int, Bounds(2, 10**6, hint="among which an image is looked for")]
Resamples = Annotated[int, Bounds(1, 10**6)]
EVERY_ARTIST = "all"


@dataclass(frozen=True)
class Judging:
    """Which images are judged, and among how many."""

    concepts: Concepts = CONCEPTS
    """Concepts in a group, or as many as there are."""
    artist: str = ""
    """Whose style the captions name; empty: the second artist in number of training images. `all`:
    anyone's but the reference's. Held-out pairs are always anyone's."""
    reference: str = ""
    """Whose images are to be found; empty: the artist with the most training images."""
    held_out_concepts: str = ""
    """Parquet file of concepts that training never saw; empty: the one beside data.path."""
    nearest: bool = True
    """Whether the samples' nearest training images are looked for."""
    resamples: Resamples = 1000
    """Of the intervals."""

    def __post_init__(self) -> None:
        """Raise `UserError` for values that make no sense."""
        check_bounds(self)
        if self.artist and self.artist == self.reference:
            raise UserError(
                f"--judge-artist and --judge-reference are both {self.artist!r}: name two artists"
            )


def add_judge(parser: argparse.ArgumentParser) -> None:
    """Add the judge's options."""
    group = parser.add_argument_group(
        "the judge", "a network trained elsewhere looks for a concept among another artist's images"
    )
    group.add_argument(
        "--judge",
        action=Number,
        kind=Concepts,
        nargs="?",
        const=CONCEPTS,
        metavar="N",
        help="find concepts among N (default: %(const)s)",
    )
    group.add_argument(
        "--candidates",
        action=Number,
        kind=Candidates,
        default=1,
        help="also look at the reranker's best of so many, with --checker too",
    )
    add_artists(group)
    group.add_argument(
        "--nearest",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="look for the samples' nearest training images, also with --scores: minutes on a CPU",
    )
    group.add_argument(
        "--sheet", type=Path, help="image to write: the first samples beside the real images"
    )


def add_artists(group: argparse._ActionsContainer) -> None:
    """Add the options that say which images are compared."""
    group.add_argument(
        "--judge-artist",
        default="",
        help="style that captions name, or all (default: the second in number of images)",
    )
    group.add_argument(
        "--judge-reference",
        default="",
        help="artist of the images to find (default: the first in number of images)",
    )
    group.add_argument(
        "--held-out-concepts",
        default="",
        help="parquet file of unseen concepts (default: held_out_concepts.parquet by data.path)",
    )


def judging_of(options: argparse.Namespace) -> Judging | None:
    """Return what is asked for, or None without --judge. Raises `UserError`."""
    if options.judge is None:
        if options.sheet or (options.candidates != 1 and not options.checker):
            raise UserError(
                "--candidates and --sheet are for the judge, the former also for --checker: "
                "give --judge as well"
            )
        return None
    if not options.config:
        raise UserError("--judge needs --config, whose data has the concepts")
    return Judging(
        concepts=options.judge,
        artist=options.judge_artist,
        reference=options.judge_reference,
        held_out_concepts=options.held_out_concepts,
        nearest=options.nearest,
        resamples=options.resamples,
    )
