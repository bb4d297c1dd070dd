"""Figures and images of a run for TensorBoard or Weights & Biases, by accelerate's trackers."""

import importlib.util
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from textwrap import indent
from typing import Any

import numpy as np
from PIL import Image

from dalle_base.common.config import to_yaml
from dalle_base.common.errors import UserError
from dalle_base.training.config import TRACKERS

PROJECT = "dalle-from-scratch"
TENSORBOARD, WANDB = "tensorboard", "wandb"
KEYS = ("WANDB_API_KEY", "WANDB_MODE", "WANDB_BASE_URL")
"""Variables by which somebody has said where Weights & Biases is to write."""


def installed(package: str) -> bool:
    """Whether a package can be imported."""
    return importlib.util.find_spec(package) is not None


def choose_tracker(name: str) -> str:
    """Return which tracker `run.tracker` means; "" for none.

    Raises `UserError` for one that is not installed.
    """
    assert name in TRACKERS
    if name == "auto":
        return TENSORBOARD if installed(TENSORBOARD) else ""
    if name != "none" and not installed(name):
        raise UserError(
            f"run.tracker={name} is not installed: pip install {name}, or write run.tracker=none"
        )
    return "" if name == "none" else name


class Tracking:
    """What a run tells its tracker; nothing where it has none."""

    def __init__(self, name: str, folder: Path, config: Any, step: int) -> None:
        """Begin to write.

        Args:
            name: of the tracker, as `choose_tracker` has it.
            folder: of the run.
            config: the script's.
            step: the update from which the run goes on: what was written of later ones is void.

        Raises:
            UserError: Weights & Biases cannot begin.
        """
        self._tracker: Any = None
        if name == TENSORBOARD:
            from accelerate.tracking import TensorBoardTracker

            # Steps from the next one on are those that a killed run had written and not saved.
            made = TensorBoardTracker(TENSORBOARD, folder, purge_step=step + 1 if step else None)
            self._tracker = made
            made.start()
            made.log({"config": indent(to_yaml(config), "    ")}, step)
        elif name == WANDB:
            self._tracker = _wandb(folder, config)

    def log(self, figures: Mapping[str, float], step: int) -> None:
        """Write the figures of an update."""
        if self._tracker is not None:
            self._tracker.log(dict(figures), step=step)

    def show(self, name: str, image: Image.Image, step: int) -> None:
        """Write an image of an update."""
        if self._tracker is None:
            return
        if self._tracker.name == TENSORBOARD:
            pixels = np.asarray(image.convert("RGB"))[None]
            self._tracker.log_images({name: pixels}, step=step, dataformats="NHWC")
        else:
            self._tracker.log_images({name: [image]}, step=step)

    def close(self) -> None:
        """Write what is still to be written."""
        if self._tracker is not None:
            self._tracker.finish()
        self._tracker = None


def _wandb(folder: Path, config: Any) -> Any:
    """Begin with Weights & Biases: into the run's folder alone, unless somebody has logged in."""
    from accelerate.tracking import WandBTracker

    options: dict[str, Any] = {"name": folder.name, "dir": str(folder), "resume": "allow"}
    if not any(os.environ.get(key) for key in KEYS) and not _logged_in():
        options["mode"] = "offline"
        print(
            f"wandb: nobody has logged in, so it writes to {folder / WANDB} alone; "
            "`wandb sync` uploads it",
            file=sys.stderr,
        )
    tracker = WandBTracker(PROJECT, **options)
    try:
        tracker.start()
        tracker.store_init_configuration({"config": to_yaml(config)})
    except Exception as error:  # its own, of many kinds
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise UserError(f"run.tracker=wandb: {reason}; or write run.tracker=none") from None
    return tracker


def _logged_in() -> bool:
    """Whether `wandb login` has left a key, where it puts it."""
    import netrc

    try:
        hosts = netrc.netrc(os.environ.get("NETRC")).hosts
    except (OSError, netrc.NetrcParseError):
        return False
    return any("wandb" in host for host in hosts)
