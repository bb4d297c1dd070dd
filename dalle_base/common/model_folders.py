"""Folders of models: found where a path is nearly right, told apart by what is in them.

Needs no torch, so that configs can be read by what a folder says.
"""

import difflib
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path

from dalle_base.common.checkout import INSTALLED
from dalle_base.common.config import read_yaml
from dalle_base.common.errors import UserError
from dalle_base.common.hub import locate

WEIGHTS, CONFIG = "model.safetensors", "config.yaml"
TEXT_TO_IMAGE, TOKENIZER = "text-to-image model", "image tokenizer"
DUAL_ENCODER, RUN, UNCLIP = "dual encoder", "run's checkpoint", "DALL-E 2"
"""Kinds of models, as messages name them."""
NAMES = ("model", "tokenizer", "reranker", "checkpoint")
"""Folders of models inside other folders, the likeliest to be meant first."""
PART = "prior"
"""Folder in one of a DALL-E 2, which has no weights of its own."""
FOREIGN = (".pt", ".pth", ".ckpt", ".bin", ".pkl", ".onnx", ".h5", ".gguf", ".jit")
"""Suffixes of other programs' weights."""
MOST_SHOWN = 200
"""Characters of a path that a message shows where it cannot be one."""
MOST = 1000
"""Entries of a folder that are looked at for what may be meant."""


def find_model(place: str | Path, wanted: str = "") -> Path:
    """Return the folder of a model: as it is named, in the checkout, or fetched from the hub.

    Args:
        place: a folder that holds the weights itself, or a name of the hub (`hub.fetch`).
        wanted: kind of model; a run's checkpoint passes for an image tokenizer, and a folder that
            does not say what it holds passes for anything.

    Raises:
        UserError: no such folder, or one of another kind; it says what may be meant.
    """
    path = locate(place)
    try:
        path.exists()
    except OSError as error:  # a name too long, or a folder that nobody may enter
        raise UserError(
            f"no checkpoint folder {str(place)[:MOST_SHOWN]}: {error.strerror}"
        ) from None
    if not _has_weights(path):
        raise UserError(f"{_complaint(path, place)}{_hint(path, wanted)}")
    kind = kind_of(path)
    if wanted and kind and kind != wanted:
        raise UserError(f"{place} is not {_a(wanted)} but {_a(kind)}{_hint(path, wanted)}")
    return path


def kind_of(folder: Path) -> str:
    """Return what kind of model a folder holds; "" where it does not say."""
    try:
        stored = read_yaml(folder / CONFIG)
    except UserError:
        return ""
    for key, kind in (("dual_encoder", DUAL_ENCODER), ("unclip", UNCLIP)):
        if key in stored:
            return kind
    if "model" not in stored:
        return ""
    if (folder / "text.json").is_file():
        return TEXT_TO_IMAGE
    if "text" in stored:  # the config of a run that reads captions
        return RUN
    return TOKENIZER if "tokenizer" in stored else ""


def asks_for(kind: str, arguments: Sequence[str]) -> bool:
    """Whether the `--model` of a command line's arguments is of a kind."""
    for before, word in zip(["", *arguments], arguments, strict=False):
        if before == "--model" or word.startswith("--model="):
            return kind_of(locate(word.removeprefix("--model="))) == kind
    return False


def _a(kind: str) -> str:
    return f"{'an' if kind[0] in 'aeiou' else 'a'} {kind}"


def _has_weights(path: Path) -> bool:
    try:
        return (path / WEIGHTS).is_file() or (path / PART / WEIGHTS).is_file()
    except (OSError, ValueError):
        return False


def _complaint(path: Path, place: str | Path) -> str:
    if path.is_file():
        return f"{place} is a file; a model is a folder with {WEIGHTS} and {CONFIG}"
    if not path.is_dir():
        return f"no checkpoint folder {place}"
    return f"{place} is not a checkpoint folder: it has no {WEIGHTS}"


def _hint(path: Path, wanted: str) -> str:
    """Return what to add to a complaint: the folder that may be meant, or what else may help."""
    for guess in _guesses(path, wanted):
        return f"; did you mean {guess}?"
    if path.is_file() and path.suffix.lower() in FOREIGN:
        return "; docs/published-weights.md says which weights of other projects can be converted"
    if path.is_dir() and (path / "metrics.jsonl").exists():
        return "; it is the folder of a run that has not written a model yet"
    if INSTALLED and not path.exists() and path.parts[:1] == ("models",):
        return "; an installation has models/shapes alone: name that, a folder, or hf:USER/NAME"
    return ""


def _guesses(path: Path, wanted: str) -> Iterator[Path]:
    """Yield model folders of the wanted kind in, around or of nearly the name of a path."""
    places = [path]
    if path.is_file() or path.name in NAMES or (path.parent / WEIGHTS).is_file():
        places.append(path.parent)
    if not path.exists():
        places += _nearly(path)
    for place in places:
        for folder in [place, *_inside(place)]:
            named = folder == path and _has_weights(path)
            if named or not _has_weights(folder):
                continue
            kind = kind_of(folder)
            if not wanted or kind == wanted:
                yield folder


def _nearly(path: Path) -> list[Path]:
    """Return paths that exist as far as one does not and whose names are nearly its own."""
    missing = path
    while not missing.parent.exists() and missing.parent != missing:
        missing = missing.parent
    close = difflib.get_close_matches(missing.name, _names(missing.parent), n=3)
    rest = path.relative_to(missing)
    others = [missing.parent / name for name in close]
    return [other / rest for other in others] + others


def _inside(folder: Path) -> list[Path]:
    """Return the folders within a folder that models are usually in, and those within these."""
    found = [folder / name for name in NAMES if (folder / name).is_dir()]
    return found + [one / name for one in found for name in NAMES if (one / name).is_dir()]


def _names(folder: Path) -> list[str]:
    try:
        return [entry.name for entry in islice(folder.iterdir(), MOST)]
    except OSError:
        return []
