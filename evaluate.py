"""A checkpoint's figures: reconstructions, held-out losses, exact match, scores, the judge."""

import dalle_base.common.interrupts  # noqa: F401  # isort: skip  # first of all

import argparse
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from dalle_base.common.errors import UserError, command
from dalle_base.common.files import prepare_file
from dalle_base.common.model_folders import (
    DUAL_ENCODER,
    RUN,
    TEXT_TO_IMAGE,
    TOKENIZER,
    UNCLIP,
    find_model,
    kind_of,
)
from dalle_base.common.registry import Registry
from dalle_base.common.report import prepare_output
from dalle_evaluation.request import Evaluation, add_arguments, evaluation_of

if TYPE_CHECKING:
    import torch

    from dalle_evaluation.report import Report

EVALUATORS: "Registry[Callable[[Evaluation, torch.device], Report]]" = Registry(
    {
        TOKENIZER: "dalle_evaluation.tokenizer:evaluate_tokenizer",
        TEXT_TO_IMAGE: "dalle_evaluation.text_to_image:evaluate_text_to_image",
        DUAL_ENCODER: "dalle_evaluation.dual_encoder:evaluate_dual_encoder",
        UNCLIP: "dalle_evaluation.unclip:evaluate_unclip",
    }
)
"""What measures a model, by its kind."""


def parse_arguments(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    add_arguments(parser)
    return parser.parse_args(argv)


@command
def main() -> None:
    options = parse_arguments()
    request = evaluation_of(options)  # mistakes are answered at once
    request = replace(request, model=find_model(request.model))
    kind = kind_of(request.model)
    if kind == RUN:
        raise UserError(
            f"{options.model} is a run's checkpoint: name the model beside it, "
            f"{request.model.parent / 'model'}"
        )
    prepare_output(options.json, request.out)
    if request.sheet:
        prepare_file(request.sheet)
    from dalle_base.common.device import announce, choose_device, enough_memory

    device = choose_device(options.device)
    announce(device)
    with enough_memory("use --device cpu"):
        # A tokenizer's loader says what is wrong with a folder that does not say its kind.
        report = EVALUATORS[kind or TOKENIZER](request, device)
    report.show(options.json)


if __name__ == "__main__":
    raise SystemExit(main())
