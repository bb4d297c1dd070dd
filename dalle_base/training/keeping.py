"""The checkpoints of a run: which are kept, and which one it goes on from.

checkpoint/           the last
checkpoints/0000500/  where run.keep_last is more than 1: the last ones, `checkpoint` among them
"""

import shutil
from collections.abc import Callable
from pathlib import Path

from dalle_base.common.files import write_folder
from dalle_base.common.leftovers import (
    OLD,
    WHOLE,
    clear_leftovers,
    leftovers,
    recover,
    remove,
)
from dalle_base.training.resuming import is_complete

KEPT = "checkpoints"


def restore_checkpoint(checkpoint: Path, say: Callable[[str], None]) -> None:
    """Put a run's last checkpoint in its place, if it has one elsewhere, and clear away leftovers.

    It may lie where a kill has left it; or it was deleted, to go on from the one before.
    Raises `UserError`: another process is writing it.
    """
    recover(checkpoint, say, is_complete, "checkpoint")
    kept = _kept(checkpoint)
    if not checkpoint.exists() and kept:
        write_folder(checkpoint, lambda new: _link(kept[-1], new))
        say(f"{checkpoint} is missing: goes on from {kept[-1]}")
    for folder in (checkpoint.parent, checkpoint.parent / KEPT):
        for target in _finished(folder):
            recover(target, say)
        clear_leftovers(folder)


def keep_checkpoint(checkpoint: Path, step: int, count: int) -> None:
    """Keep the checkpoint of an update beside the one that the next will replace.

    The oldest beyond `count` go. Files are linked where the disk can: none takes space twice.
    Raises `UserError`: the disk is full or cannot be written to.
    """
    if count == 1:
        return  # what a run with more of them has kept stays
    place = checkpoint.parent / KEPT / f"{step:07d}"
    write_folder(place, lambda new: _link(checkpoint, new))
    for folder in _kept(checkpoint)[:-count]:
        remove(folder)


def _kept(checkpoint: Path) -> list[Path]:
    """The checkpoints kept beside, the oldest first."""
    folder = checkpoint.parent / KEPT
    if not folder.is_dir():
        return []
    found = [path for path in folder.iterdir() if path.name.isdecimal() and path.is_dir()]
    return sorted(found, key=lambda path: int(path.name))


def _link(source: Path, target: Path) -> None:
    for path in source.iterdir():
        try:
            (target / path.name).hardlink_to(path)
        except OSError:
            shutil.copy2(path, target / path.name)


def _finished(folder: Path) -> list[Path]:
    """What else a kill has cut off while it was replaced: the model, images, codes."""
    return [folder / e.name for e in leftovers(folder) if e.stage in (WHOLE, OLD)]
