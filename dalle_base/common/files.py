"""Files and folders that are written whole or not at all, and whether a place can be written."""

import contextlib
import errno
import os
import re
import shutil
import uuid
from collections.abc import Callable
from pathlib import Path

from dalle_base.common.errors import UserError, is_full
from dalle_base.common.exchange import exchange
from dalle_base.common.leftovers import (
    JUNK,
    NEW,
    OLD,
    WHOLE,
    clear_leftovers,
    locked,
    remove,
    sync_folder,
)

FULL = 2**20
"""Bytes: where fewer are free, that is why something could not be written."""


def write_folder(target: Path, write: Callable[[Path], None]) -> None:
    """Fill a temporary folder with `write`, sync it and put it in the place of `target`.

    An older `target` is replaced only after the new one is complete, in one step where the system
    can exchange two names. A process killed in between leaves what `leftovers.recover` finds.

    Raises:
        UserError: the disk is full or the place cannot be written; then `target` is as it was.
    """
    temporary = _beside(target, NEW)
    whole, outgoing, junk = (_stage(temporary, stage) for stage in (WHOLE, OLD, JUNK))
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        if target.is_file():
            raise NotADirectoryError("there is a file of that name")
        temporary.mkdir()
        with locked(temporary):
            write(temporary)
            for path in [*temporary.rglob("*"), temporary]:
                _sync(path)
            temporary.rename(whole)
            if target.exists() and not exchange(whole, target):
                target.rename(outgoing)
            if not target.exists():
                whole.rename(target)
            sync_folder(target.parent)
    except Exception as error:
        if _is_of_the_disk(error):
            raise unwritable(target, error, "folder") from None
        raise
    finally:
        if outgoing.exists() and not target.exists():
            outgoing.rename(target)
        for path in (temporary, whole, outgoing):
            # Under a name that nothing is recovered from, should this be cut off as well.
            with contextlib.suppress(OSError):
                path.rename(junk)
            for each in (junk, path):
                remove(each)
    clear_leftovers(target.parent, target.name)


def write_file(target: Path, write: Callable[[Path], None], sync: bool = True) -> None:
    """Let `write` fill a temporary file, sync it and rename it to `target`.

    The temporary name is no other process's, so several may write the same file: the last wins.
    Without `sync`, which takes its time, a file that is easily made again may be lost when the
    system fails; never to a kill or a full disk.

    Raises:
        UserError: the disk is full or the place cannot be written; then `target` is as it was.
    """
    temporary = _beside(target, NEW)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        temporary.touch()
        mode = temporary.stat().st_mode
        with locked(temporary):
            write(temporary)
            temporary.chmod(mode)  # safetensors lets only the owner read what it writes
            if sync:
                _sync(temporary)
            temporary.replace(target)
            if sync:
                sync_folder(target.parent)
    except Exception as error:
        if _is_of_the_disk(error):
            raise unwritable(target, error, "file") from None
        raise
    finally:
        remove(temporary)


def write_text(target: Path, text: str) -> None:
    """Write a text in UTF-8, whole or not at all. Raises `UserError` as `write_file` does."""
    write_file(target, lambda new: _write_bytes(new, text.encode("utf-8")))


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
        if is_full(error):
            advice = "free some space"
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
    full = is_full(error)
    if getattr(error, "errno", None) in (None, errno.EIO):  # torch says only that it failed
        with contextlib.suppress(OSError):
            full = full or shutil.disk_usage(target.parent).free < FULL
    advice = "the disk is full; free some space" if full else f"choose another {kind}"
    reason = str(error).splitlines()[0] if str(error) else type(error).__name__
    return UserError(f"cannot write {target}: {reason}; {advice}")


def _is_of_the_disk(error: Exception) -> bool:
    # safetensors has an error of its own, and torch raises RuntimeError, for a full disk.
    return isinstance(error, OSError | RuntimeError) or type(error).__name__ == "SafetensorError"


def _beside(target: Path, kind: str) -> Path:
    return target.with_name(f".{target.name}.{kind}-{os.getpid()}-{uuid.uuid4().hex[:8]}")


def _stage(temporary: Path, stage: str) -> Path:
    """A temporary folder's name at another stage."""
    head, _, tail = temporary.name.rpartition(f".{NEW}-")
    return temporary.with_name(f"{head}.{stage}-{tail}")


def _write_bytes(path: Path, content: bytes) -> None:
    path.write_bytes(content)


def _sync(path: Path) -> None:
    if path.is_dir():
        sync_folder(path)
        return
    with path.open("rb") as file:
        os.fsync(file.fileno())
