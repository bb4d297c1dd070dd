"""What evaluate.py is asked for: its arguments, and what they become. Needs no torch."""

import argparse
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dalle.config import Sampling, SamplingDefaults
from dalle.request import add_settings, take_settings
from dalle_base.common.arguments import Number, add_device
from dalle_base.common.bounds import From0, Seed
from dalle_base.common.errors import UserError
from dalle_evaluation.judge_options import Judging, Resamples, add_judge, judging_of

TOGETHER = 100
"""Images sampled at a time."""
BOTH = "both"
"""The splits test and compositional, apart."""


@dataclass(frozen=True)
class Evaluation:
    """What to measure of a model, and on what."""

    model: Path
    """Its folder."""
    config: Path | None = None
    """Training config whose held-out data is measured on."""
    held_out: str = ""
    """Other held-out data, as the config's held_out_path."""
    images: int = 1024
    """Held-out images; 0: all."""
    checker: int = 0
    """Captions of shapes to sample and check, of each split."""
    split: str = BOTH
    """Split of those."""
    candidates: int = 1
    """Images sampled of each of those and of the judge's captions; of several, the reranker's
    favourite is looked at as well."""
    scores: int = 0
    """Held-out captions to sample and score."""
    ranker: Path | None = None
    """Dual encoder that scores."""
    inception: Path | None = None
    """Inception weights, for FID."""
    diversity: int = 16
    """Captions of which several candidates are compared, of those that are scored."""
    nearest: bool = True
    """Whether the nearest training images of samples are looked for."""
    training_images: int = 20_000
    """Training images among which they are; 0: all."""
    resamples: int = 1000
    """Of the intervals."""
    judging: Judging | None = None
    """What the judge is asked."""
    sheet: Path | None = None
    """Where the judge's sheet goes."""
    settings: dict[str, Any] = field(default_factory=dict)
    """How to sample, where not as the model's folder says: fields of `Sampling`."""
    seed: int = 0
    """Of the first image."""
    out: Path | None = None
    """Folder for drawings; None: nothing is drawn."""

    def __post_init__(self) -> None:
        """Raise `UserError` for what cannot go together."""
        if not self.scores and (self.inception or self.ranker):
            raise UserError("--ranker and --inception are for scores: give --scores N as well")
        if self.scores and not self.config:
            raise UserError(
                "--scores needs --config, for its held-out captions, and a text-to-image model"
            )
        self.sampling()

    def sampling(self, own: SamplingDefaults | None = None) -> Sampling:
        """Return how to sample one candidate of a caption: as asked, else as the model's own.

        Raises `UserError`.
        """
        own = own or SamplingDefaults()
        return own.sampling(seed=self.seed, batch_size=TOGETHER, **self.settings)


def evaluation_of(options: argparse.Namespace) -> Evaluation:
    """Return what arguments ask for. Raises `UserError`."""
    given = dict(vars(options))
    settings = take_settings(given)
    kept = {name: given[name] for name in Evaluation.__dataclass_fields__ if name in given}
    kept["held_out"] = kept["held_out"] or ""
    return Evaluation(**kept, judging=judging_of(options), settings=settings)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add all arguments of evaluate.py."""
    parser.add_argument(
        "model", type=Path, help="folder of a text-to-image model, a tokenizer or a dual encoder"
    )
    parser.add_argument(
        "--config", type=Path, help="training config whose held-out data is measured on"
    )
    parser.add_argument("--held-out", help="other held-out data, as the config's held_out_path")
    _add_number(parser, "--images", "--pictures", default=1024, help="held-out images; 0: all")
    _add_checker(parser)
    _add_scores(parser.add_argument_group("scores of samples", "each beside that of real images"))
    add_judge(parser)
    add_settings(parser)
    parser.add_argument(
        "--seed", action=Number, kind=Seed, default=0, help="seed of the first image"
    )
    parser.add_argument(
        "--resamples", action=Number, kind=Resamples, default=1000, help="of the intervals"
    )
    add_device(parser)
    parser.add_argument("--json", type=Path, help="also write the figures here")
    parser.add_argument(
        "--out",
        type=Path,
        help="folder for drawings: worst reconstructions, nats by place, nearest training images",
    )


def _add_checker(parser: argparse.ArgumentParser) -> None:
    _add_number(parser, "--checker", help="captions of shapes to sample and check, if any")
    parser.add_argument(
        "--split",
        choices=("train", "test", "compositional", BOTH),
        default=BOTH,
        help="split of those; both: test, and apart from it compositional, combinations that "
        "training never shows (default: %(default)s)",
    )


def _add_scores(group: argparse._ArgumentGroup) -> None:
    _add_number(group, "--scores", help="held-out captions to sample and score, if any")
    group.add_argument(
        "--ranker", type=Path, help="dual encoder that scores (default: the model's reranker)"
    )
    group.add_argument("--inception", type=Path, help="Inception weights: also measure FID")
    _add_number(
        group,
        "--diversity",
        default=16,
        help="of so many of the captions, compare four candidates; 0: none",
    )
    _add_number(
        group,
        "--training-images",
        default=20_000,
        help="among which the nearest is looked for (without --no-nearest); 0: all",
    )


def _add_number(
    parser: argparse._ActionsContainer,
    *names: str,
    default: int = 0,
    help: str = "",  # noqa: A002
) -> None:
    said = f"{help} (default: {default})" if default else help
    parser.add_argument(*names, action=Number, kind=From0, default=default, help=said)
