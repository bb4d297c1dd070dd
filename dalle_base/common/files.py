"""Files and folders that are written whole or not at all, and whether a place can be written."""

import contextlib
import errno
import os
import re
import shutil
import uuid
from collections.abc import Callable
from pathlib import Path

from dalle_base.common.errors import UserError

FULL = 2**20
"""Bytes: where fewer are free, that is why something could not be written."""


def write_folder(target: Path, write: Callable[[Path], None]) -> None:
    """Fill a temporary folder with `write`, sync it and rename it to `target`.

    An older `target` is replaced only after the new one is complete.

    Raises:
        UserError: the disk is full or the place cannot be written; then `target` is as it was.
    """
    temporary, outgoing = _beside(target, "new"), _beside(target, "old")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        if target.is_file():
            raise NotADirectoryError("there is a file of that name")
        temporary.mkdir()
        write(temporary)
        for path in temporary.rglob("*"):
            if path.is_file():
                _sync(path)
        if target.exists():
            target.rename(outgoing)
        temporary.rename(target)
    except Exception as error:
        if not target.exists() and outgoing.exists():
            outgoing.rename(target)
        if _is_of_the_disk(error):
            raise unwritable(target, error, "folder") from None
        raise
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
        shutil.rmtree(outgoing, ignore_errors=True)


def write_file(target: Path, write: Callable[[Path], None]) -> None:
    """Let `write` fill a temporary file, sync it and rename it to `target`.

    The temporary name is no other process's, so several may write the same file: the last wins.

    Raises:
        UserError: the disk is full or the place cannot be written; then `target` is as it was.
    """
    temporary = _beside(target, "new")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        temporary.touch()
        mode = temporary.stat().st_mode
        write(temporary)
        temporary.chmod(mode)  # safetensors lets only the owner read what it writes
        _sync(temporary)
        temporary.replace(target)
    except Exception as error:
        if _is_of_the_disk(error):
            raise unwritable(target, error, "file") from None
        raise
    finally:
        with contextlib.suppress(OSError):  # it is missing, or its folder is
            temporary.unlink()


def prepare_folder(folder: Path, advice: str = "choose another folder") -> Path:
    """Make a folder now and prove that files can be written into it: nothing is done in vain.

    Raises:
        UserError: it cannot be written into; the message ends with `advice`.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe = _beside(folder / "probe", "new")
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise UserError(f"cannot write into {folder}: {error.strerror}; {advice}") from None
    return folder


def prepare_file(path: Path, advice: str = "choose another file") -> Path:
    """Prove now that the file `path` can be written later.

    Raises:
        UserError: it is a folder, or its folder cannot be written into.
    """
    if path.is_dir():
        raise UserError(f"cannot write {path}: it is a folder; {advice}")
    prepare_folder(path.parent, advice)
    return path


def slug(text: str) -> str:
    """Return a folder's name for a text."""
    return re.sub(r"\W+", "-", text.lower()).strip("-")[:60] or "caption"


def check_free(target: Path) -> None:
    """Raise `UserError` if there is something at `target` that writing would replace."""
    if target.is_dir() and not any(target.iterdir()):
        return
    if target.exists() or target.is_symlink():
        raise UserError(f"{target} exists already; name another folder, or remove it first")


def unwritable(target: Path, error: Exception, kind: str) -> UserError:
    """Return what to say where a `kind` (folder, file) cannot be written, or the disk is full."""
    full = getattr(error, "errno", None) == errno.ENOSPC or "No space left" in str(error)
    with contextlib.suppress(OSError):  # torch says only that it failed
        full = full or shutil.disk_usage(target.parent).free < FULL
    advice = "the disk is full; free some space" if full else f"choose another {kind}"
    reason = str(error).splitlines()[0] if str(error) else type(error).__name__
    return UserError(f"cannot write {target}: {reason}; {advice}")


def _is_of_the_disk(error: Exception) -> bool:
    # safetensors has an error of its own, and torch raises RuntimeError, for a full disk.
    return isinstance(error, OSError | RuntimeError) or type(error).__name__ == "SafetensorError"


def _beside(target: Path, kind: str) -> Path:
    return target.with_name(f".{target.name}.{kind}-{os.getpid()}-{uuid.uuid4().hex[:8]}")


def _sync(path: Path) -> None:
    with path.open("rb") as file:
        os.fsync(file.fileno())
