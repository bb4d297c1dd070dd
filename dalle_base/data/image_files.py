"""Image files: which there are under a folder, and opening them a batch at a time."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence, Set
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from dalle_base.common.errors import UserError
from dalle_base.common.report import say, shown
from dalle_base.data.passed_over import PassedOver

if TYPE_CHECKING:
    from PIL import Image

SUFFIXES = frozenset(
    (
        *(".png", ".jpg", ".jpeg", ".jfif", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".avif"),
        *(".ppm", ".pgm", ".pbm", ".pnm"),
    )
)
TEXTS = frozenset((".txt", ".caption", ".csv", ".tsv", ".json", ".jsonl", ".md"))
"""Suffixes of what stands beside images to describe them."""
CLUTTER = {".ds_store", "thumbs.db", "desktop.ini"}
"""What systems leave in folders: not worth a word."""
METRICS = "metrics.jsonl"
RUN_FOLDERS = {
    *("checkpoint", "tokenizer", "model", "samples", "reconstructions", "tensorboard", "wandb"),
}
"""What a training run puts beside its metrics."""


class Opened(NamedTuple):
    """A batch of images that could be read."""

    paths: list[Path]
    images: list[Image.Image]
    skipped: list[Path]
    """Files of this batch that could not be read."""


class Listing(NamedTuple):
    """The files of one folder."""

    folder: Path
    images: list[str]
    """Names of image files, by their suffix."""
    others: list[str]
    """Names of other files."""


def suffixes() -> frozenset[str]:
    """Return the suffixes of image files that this installation can read, in lower case."""
    try:
        from PIL import AvifImagePlugin
    except ImportError:  # before Pillow 11.3
        return SUFFIXES - {".avif"}
    return SUFFIXES if AvifImagePlugin.SUPPORTED else SUFFIXES - {".avif"}


def walk(folder: Path, passed_over: PassedOver) -> Iterator[Listing]:
    """Yield the files of a folder and of all below it, each folder once.

    Links to folders are followed, after the folders that stand there themselves. Not listed, but
    counted in `passed_over`, are hidden files and folders, `__MACOSX`, what is no regular file, and
    what this project has written below the folder: training runs, models, samples.

    Raises:
        UserError: the folder cannot be listed.
    """
    images = suffixes()
    root = folder.resolve()
    seen: set[tuple[int, int]] = set()
    waiting, linked = [folder], []
    while waiting or linked:
        here = waiting.pop() if waiting else linked.pop(0)
        try:
            state = here.stat()
            if (state.st_dev, state.st_ino) in seen:
                continue  # a link to what was listed
            seen.add((state.st_dev, state.st_ino))
            entries = sorted(os.scandir(here), key=lambda entry: entry.name)
        except OSError as error:
            if here == folder:
                raise UserError(f"cannot list {shown(folder)}: {error.strerror}") from None
            passed_over.add("folders that cannot be listed", below(here, folder))
            continue
        names = {entry.name for entry in entries}
        if here != folder and (reason := _written_by_us(names)):
            passed_over.add(reason, below(here, folder))
            continue
        listing = Listing(here, [], [])
        for entry in entries:
            if entry.name.lower() in CLUTTER:
                continue
            if reason := _reason_against(entry, names, root):
                passed_over.add(reason, below(Path(entry.path), folder))
            elif entry.is_dir():
                (linked if entry.is_symlink() else waiting).append(Path(entry.path))
            else:
                is_image = suffix_of(entry.name) in images
                (listing.images if is_image else listing.others).append(entry.name)
        yield listing


def suffix_of(name: str) -> str:
    """Return the suffix of a file's name in lower case, with its dot, or ""."""
    stem, dot, ending = name.rpartition(".")
    return f".{ending.lower()}" if stem and dot else ""


def below(path: Path, folder: Path) -> str:
    """Return the name of what is under a folder, as messages have it."""
    return path.relative_to(folder).as_posix()


def _reason_against(entry: os.DirEntry[str], beside: set[str], root: Path) -> str | None:
    """Return why a file or folder with these names beside it is not data, if so."""
    if entry.name.startswith(".") or entry.name == "__MACOSX":
        return "hidden"
    try:
        is_folder, is_file = entry.is_dir(), entry.is_file()
    except OSError:  # a link to itself, say
        is_folder = is_file = False
    if is_folder:
        if entry.name in RUN_FOLDERS and METRICS in beside:
            return "folders of a training run"
        if entry.is_symlink() and root.is_relative_to(Path(entry.path).resolve()):
            return "links to a folder above"
        return None
    if is_file:
        return None
    return "broken links" if entry.is_symlink() else "no regular files"


def _written_by_us(names: set[str]) -> str | None:
    """Return what of this project's output a folder with these names is, if it is any."""
    if METRICS in names and RUN_FOLDERS & names:
        return "training runs"
    if names >= {"model.safetensors", "config.yaml"}:
        return "models"
    return "folders of samples" if names >= {"samples.json", "grid.png"} else None


def images_under(folder: Path) -> list[Path]:
    """The image files under a folder (see `walk`), sorted.

    What else there is, is said in one line on standard error. Raises `UserError` where there are
    none.
    """
    if not folder.is_dir():
        raise UserError(f"no folder {shown(folder)}: name one with images in it")
    passed_over, found = PassedOver(), []
    for listing in walk(folder, passed_over):
        found += [listing.folder / name for name in listing.images]
        texts = {name for name in listing.others if suffix_of(name) in TEXTS}
        count_others(passed_over, listing, folder, texts)
    if not found:
        raise no_images(folder, passed_over)
    if passed_over:
        say(f"passed over under {shown(folder)}: {passed_over}", error=True)
    return sorted(found)


def count_others(passed_over: PassedOver, listing: Listing, root: Path, read: Set[str]) -> None:
    """Count a folder's other files, by suffix, but for those that were `read`."""
    for name in listing.others:
        if name not in read:
            passed_over.add(
                suffix_of(name) or "without a suffix", below(listing.folder / name, root)
            )


def no_images(folder: Path, passed_over: PassedOver) -> UserError:
    """Return the error for a folder without images."""
    kinds = ", ".join(sorted(suffixes()))
    rest = f"; passed over: {passed_over}" if passed_over else ""
    return UserError(f"no images under {shown(folder.resolve())} (looked for {kinds}){rest}")


def open_batches(
    paths: Sequence[Path], must_open: frozenset[Path] = frozenset(), batch_size: int = 64
) -> Iterator[Opened]:
    """Read images, a batch at a time, on white and in RGB.

    One that cannot be read is named and left out.

    Raises:
        UserError: one in `must_open` cannot be read.
    """
    from dalle_base.common.images import UnreadableImageError, open_image

    for first in range(0, len(paths), batch_size):
        batch = Opened([], [], [])
        for path in paths[first : first + batch_size]:
            try:
                image = open_image(path, shown(path))
            except UnreadableImageError as error:
                if path in must_open:
                    raise UserError(f"not a readable image: {error}") from None
                say(f"skipped an unreadable image: {error}", error=True)
                batch.skipped.append(path)
                continue
            batch.paths.append(path)
            batch.images.append(image)
        yield batch
