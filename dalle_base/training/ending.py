"""The last line of a run: what was done, and what its folder holds."""

from pathlib import Path
from typing import Any


def closing_line(run: Any, begun: int, folder: Path, best: str = "") -> str:
    """Return what to say at the end.

    Args:
        run: with `trainer`, `options` and `folder`.
        begun: update at which the command found the run.
        folder: of the model.
        best: a figure of the model in it.
    """
    figure = f": {best}" if best else ""
    step, wanted = run.trainer.step, run.options.updates
    if step > begun:
        return f"wrote {folder}{figure}"
    at = f"{run.folder} is already at {step} updates, run.updates is {wanted}: nothing to train"
    if not folder.is_dir():
        return f"{at}, and there is no {folder}; raise run.updates to train on"
    return f"{at}; {folder} is as it was{figure}"
