"""An index of images: their features in one file, brought up to date and searched exactly.

The file is a safetensors file of two tensors, so reading it runs nothing:
    features  float16 [N, E], each of length 1
    entries   uint8, a JSON list of [path relative to the root, size, time of change in ns]
and of strings that say what it is: format, version, root, model.
"""

import importlib
import json
from pathlib import Path
from typing import NamedTuple

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file
from tqdm import tqdm

from dalle_base.common.checkpoint import fingerprint
from dalle_base.common.errors import UserError
from dalle_base.common.files import prepare_file, write_file
from dalle_base.common.report import shown
from dalle_base.data.image_files import images_under, open_batches
from dual_encoder.model import DualEncoder
from dual_encoder.ranker import Ranker

FORMAT, VERSION = "index of pictures", "1"  # as the files say, whatever images are called here
BLOCK = 16_384
"""Images whose scores are computed at once; in float32 their features take 32 MB at E = 512."""
DECIMALS = 6
"""Scores are rounded to these, so that equal images tie whatever order they are summed in."""


class Entry(NamedTuple):
    """One indexed image."""

    path: str
    """Relative to the index's root, with forward slashes."""
    size: int
    """Bytes, and with `changed` what a changed file is known by."""
    changed: int
    """Time of the last change, in nanoseconds."""


class ImageIndex(NamedTuple):
    """Features of the images under a folder."""

    root: Path
    """The folder, absolute."""
    model: str
    """What `model_fingerprint` says of the model that made the features."""
    entries: list[Entry]
    """The N images, sorted by path."""
    features: np.ndarray
    """float16 [N, E], each of length 1."""


class Update(NamedTuple):
    """What `update_index` did, in numbers of images."""

    index: ImageIndex
    new: int
    changed: int
    dropped: int
    """Images that are gone from the folder."""
    unchanged: int
    skipped: int
    """New or changed images that could not be read; they are not in the index."""
    left: int
    """New or changed images that an interruption left to the next time."""


class InterruptedUpdate(KeyboardInterrupt):
    """Ctrl-C while images were encoded; what was done has been written."""

    def __init__(self, update: Update) -> None:
        super().__init__()
        self.update = update


class Hit(NamedTuple):
    """An image that was found."""

    path: Path
    """Absolute."""
    score: float
    """Cosine similarity with what was asked for, from -1 to 1."""


def model_fingerprint(model: DualEncoder) -> str:
    """Name a model by all that its features of images depend on."""
    state = {**model.state_dict(), "mean": model.mean, "std": model.std}
    return f"{fingerprint(state)}-{model.config.activation}"


def write_index(path: Path, index: ImageIndex) -> None:
    """Write an index, whole or not at all. Raises `UserError`; then `path` is as it was."""
    entries = json.dumps(index.entries).encode()
    tensors = {
        "features": np.ascontiguousarray(index.features, dtype=np.float16),
        "entries": np.frombuffer(entries, dtype=np.uint8),
    }
    # ASCII, also where a folder's name is not valid Unicode.
    about = {"format": FORMAT, "version": VERSION, "model": index.model}
    about |= {"root": json.dumps(str(index.root))}
    write_file(path, lambda new: save_file(tensors, new, metadata=about))


def read_index(path: Path) -> ImageIndex:
    """Read an index. Raises `UserError` for a file that is missing, damaged or none of ours."""
    if not path.is_file():
        raise UserError(f"no index {path}: make one with `search.py index FOLDER --index {path}`")
    try:
        with safe_open(path, framework="np") as file:
            about = file.metadata() or {}
            if about.get("format") != FORMAT:
                raise UserError(f"{path} is not an index of images: name another file")
            if about.get("version") != VERSION:
                raise UserError(
                    f"{path} is an index of version {about.get('version')}, this is for version "
                    f"{VERSION}: make a new one in another file"
                )
            features = file.get_tensor("features")
            rows = json.loads(file.get_tensor("entries").tobytes())
        entries = [Entry(str(name), int(size), int(changed)) for name, size, changed in rows]
        index = ImageIndex(Path(json.loads(about["root"])), about["model"], entries, features)
        _check(index)
    except UserError:
        raise
    except (SafetensorError, OSError, ValueError, KeyError, TypeError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UserError(
            f"{path} is damaged or no index of images ({reason}); delete it and make a new one"
        ) from None
    return index


def _check(index: ImageIndex) -> None:
    """Raise `ValueError` unless the parts of an index fit together."""
    if index.features.dtype != np.float16 or index.features.ndim != 2:
        raise ValueError("features of another kind")
    if len(index.features) != len(index.entries):
        raise ValueError(f"{len(index.features)} features of {len(index.entries)} images")
    if not np.isfinite(index.features).all():
        raise ValueError("features that are not finite")


def check_model(index: ImageIndex, model: str, path: Path) -> None:
    """Raise `UserError` unless the index was made with the model of this fingerprint."""
    if index.model != model:
        raise UserError(
            f"{path} was made with another model: give that one with --model, or make a new index "
            "in another file with this --model"
        )


def update_index(path: Path, folder: Path, ranker: Ranker, batch_size: int = 64) -> Update:
    """Make the index `path` of the images under a folder, or bring it up to date.

    Only new and changed images are encoded; those that are gone leave the index. Ctrl-C writes
    what is done and raises `InterruptedUpdate`. Raises `UserError` where there are no images, for
    an index of another folder or model, and where it cannot be written; then it is as it was.
    """
    root, model = folder.resolve(), model_fingerprint(ranker.model)
    old = _stored_rows(path, root, model) if path.exists() else {}
    entries = [_entry(file, folder) for file in images_under(folder)]
    prepare_file(path)
    kept = {entry.path: old[entry.path] for entry in entries if entry.path in old}
    wanted = [e for e in entries if e.path not in kept or kept[e.path].entry != e]
    done: dict[str, Row] = {}
    skipped: set[str] = set()
    interrupted = False
    try:
        _encode(ranker, root, wanted, done, skipped, batch_size)
    except KeyboardInterrupt:
        interrupted = True
    # What can no longer be read leaves the index; what was not yet reached stays as it was.
    rows = {name: row for name, row in (kept | done).items() if name not in skipped}
    if not rows and not interrupted:
        raise UserError(f"none of the {len(entries)} images can be read (see the lines above)")
    ordered = [rows[name] for name in sorted(rows)]
    empty = np.empty((0, ranker.model.config.embed_dim), np.float16)
    features = np.stack([row.features for row in ordered]) if ordered else empty
    index = ImageIndex(root, model, [row.entry for row in ordered], features)
    if ordered:
        write_index(path, index)
    changed = sum(name in old for name in done)
    update = Update(
        index,
        new=len(done) - changed,
        changed=changed,
        dropped=len(old) - len(kept),
        unchanged=len(entries) - len(wanted),
        skipped=len(skipped),
        left=len(wanted) - len(done) - len(skipped),
    )
    if interrupted:
        raise InterruptedUpdate(update)
    return update


class Row(NamedTuple):
    """An image with its features, float16 [E]."""

    entry: Entry
    features: np.ndarray


def _stored_rows(path: Path, root: Path, model: str) -> dict[str, Row]:
    """Return an index's rows by path. Raises `UserError` for another folder's or model's."""
    stored = read_index(path)
    check_model(stored, model, path)
    if stored.root != root:
        raise UserError(
            f"{path} is the index of {shown(stored.root)}, not of {shown(root)}: name another file"
        )
    return {
        entry.path: Row(entry, features)
        for entry, features in zip(stored.entries, stored.features, strict=True)
    }


def _entry(file: Path, folder: Path) -> Entry:
    state = file.stat()
    return Entry(file.relative_to(folder).as_posix(), state.st_size, state.st_mtime_ns)


def _encode(
    ranker: Ranker,
    root: Path,
    wanted: list[Entry],
    done: dict[str, Row],
    skipped: set[str],
    batch_size: int,
) -> None:
    """Encode images into `done`, and put those that cannot be read into `skipped`, by batches."""
    entries = {root / entry.path: entry for entry in wanted}
    with tqdm(total=len(wanted), desc="encoding", unit="image", dynamic_ncols=True) as bar:
        for batch in open_batches(list(entries), batch_size=batch_size):
            features = ranker.image_features(batch.images).numpy().astype(np.float16)
            read = [entries[file] for file in batch.paths]
            done |= {e.path: Row(e, row) for e, row in zip(read, features, strict=True)}
            skipped |= {entries[file].path for file in batch.skipped}
            bar.update(len(batch.paths) + len(batch.skipped))


def search_file(
    path: Path, model: DualEncoder, query: np.ndarray, top: int = 10, faiss: bool = False
) -> list[Hit]:
    """`search_index` in an index file that was made with `model`. Raises `UserError`."""
    index = read_index(path)
    check_model(index, model_fingerprint(model), path)
    return search_index(index, query, top, faiss)


def search_index(
    index: ImageIndex, query: np.ndarray, top: int = 10, faiss: bool = False
) -> list[Hit]:
    """The `top` images most similar to a query's features [E], the best first.

    The search is exact. Equal scores (to six decimals) are in the order of the paths, also where
    `top` cuts between them. With `faiss` that library finds the candidates, with the same result.
    Raises `UserError` for an impossible `top`, or where faiss is not installed.
    """
    if top < 1:
        raise UserError(f"top is {top}: write a number of at least 1")
    query = np.asarray(query, dtype=np.float32)
    count = min(top, len(index.entries))
    if faiss:
        candidates = _faiss_candidates(index.features, query, count)
    else:
        candidates = np.arange(len(index.entries))
    best = np.empty(0, dtype=np.int64)
    best_scores = np.empty(0)
    for first in range(0, len(candidates), BLOCK):
        rows = candidates[first : first + BLOCK]
        # In float64, so that an image's score does not depend on its neighbours in the block.
        scores = (index.features[rows].astype(np.float64) @ query).round(DECIMALS)
        chosen = _best(np.concatenate([best_scores, scores]), count)
        best = np.concatenate([best, rows])[chosen]
        best_scores = np.concatenate([best_scores, scores])[chosen]
    return [
        Hit(index.root / index.entries[row].path, float(score))
        for row, score in zip(best, best_scores, strict=True)
    ]


def _best(scores: np.ndarray, count: int) -> np.ndarray:
    """Indices of the `count` best scores, the best first, and of equal ones the earlier first."""
    if len(scores) > count:
        worst = np.partition(scores, -count)[-count]
        above = np.flatnonzero(scores > worst)
        # `argpartition` alone would keep any of those that tie for the last places.
        level = np.flatnonzero(scores == worst)[: count - len(above)]
        chosen = np.sort(np.concatenate([above, level]))
    else:
        chosen = np.arange(len(scores))
    return chosen[np.argsort(-scores[chosen], kind="stable")]


def _faiss_candidates(features: np.ndarray, query: np.ndarray, count: int) -> np.ndarray:
    """Rows, ascending, of all images that score at least as high as the last of the best."""
    try:
        library = importlib.import_module("faiss")  # an extra: it may be missing
    except ImportError:
        raise UserError(
            'faiss is not installed: `pip install -e ".[search]"`, or leave out --faiss'
        ) from None
    flat = library.IndexFlatIP(features.shape[1])
    flat.add(features.astype(np.float32))
    worst = float(flat.search(query[None], count)[0][0, -1])
    # More than the scores' rounding below it: the ties at the end are then among them.
    return np.sort(flat.range_search(query[None], worst - 1e-5)[2])
