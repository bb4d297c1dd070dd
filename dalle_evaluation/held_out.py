"""The data that a model is measured on."""

import torch

from dalle_base.common import lite0
from dalle_base.common.errors import UserError
from dalle_base.common.report import say
from dalle_base.data.config import PathConfig
from dalle_base.data.sources import data_of, open_sources
from dalle_base.data.sources.base import Source
from dalle_evaluation.request import Evaluation


def open_data(request: Evaluation) -> tuple[Source, Source]:
    """Return the training and the held-out images of a config. Raises `UserError`."""
    assert request.config
    data = data_of(request.config)
    if request.held_out:
        if not isinstance(data, PathConfig):
            raise UserError(
                f"--held-out is for data with a path, not for data.source={data.source}"
            )
        data.held_out_path = request.held_out
    return open_sources(data)


def load_lite0(needed: bool, device: torch.device) -> lite0.Lite0 | None:
    """Return the perceptual network, or say that nothing is measured by it: it is not installed.

    Raises `UserError` where it is needed.
    """
    try:
        return lite0.Lite0().to(device)
    except UserError as error:
        if needed:
            raise
        say(f"lite0_distance: not measured ({error})")
        return None


def check_asked(request: Evaluation) -> None:
    """Raise `UserError` where neither data nor scenes are given to measure on."""
    if not request.config and not request.checker:
        raise UserError("nothing to measure: give --config, --checker or both")
