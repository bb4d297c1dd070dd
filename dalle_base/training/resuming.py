"""What a run must have in common with its checkpoint, and what may have changed since."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from dalle_base.common.checkpoint import CONFIG, TRAINING, WEIGHTS
from dalle_base.common.config import from_layers, read_yaml
from dalle_base.common.errors import UserError
from dalle_base.common.files import write_text
from dalle_base.common.free import Option, options
from dalle_base.training.changes import how_to_change
from dalle_base.training.shares import without_shares

ONCE = ("init",)
"""What a run reads at its start alone: it need not be there any more."""
ABOUT = {
    "batch": "an update had {old} images and now has {new} (run.batch_size times processes)",
    "data": "the training images or captions are not those that the run began with",
    "text": "text.json is not the text encoding that the run began with",
    "tokenizer": "the image tokenizer is not the one that the run began with",
}
OTHERWISE = "what {what} names is not what the run began with"
CHANGES = "changes"
"""Key of the lines of metrics.jsonl that say what was changed on purpose."""


def check_resumed(
    folder: Path, config: Any, stored: Mapping[str, str], used: Mapping[str, str]
) -> dict[str, list[Any]]:
    """Return what was changed on purpose since a run's checkpoint: [before, now] by option.

    Args:
        folder: of the checkpoint.
        config: the run's whole config; `run.changed` names what may differ.
        stored: fingerprints of what the run was fed when the checkpoint was written.
        used: fingerprints of what it is fed now.

    Raises:
        UserError: something else that changes what the run learns differs.
    """
    # As this version reads it: keys may have been renamed, or come to be, since then.
    read = from_layers(type(config), [read_yaml(folder / CONFIG)], str(folder))
    before, now = _beside_shares(options(read), options(config))
    meant = [str(key) for key in config.run.changed]
    _check_names(meant, [*before, *now, *stored, *used])
    differ = _differences(before, now, stored, used)
    refused = {key: value for key, value in differ.items() if not _named(key, meant)}
    if refused:
        raise UserError(_refusal(folder.parent, refused))
    changes = {key: [old, new] for key, (old, new) in differ.items()}
    named = {option.place for key, option in [*before.items(), *now.items()] if key in differ}
    for what in sorted(set(stored) & set(used) - {*ONCE, *named}):
        old, new = stored[what], used[what]
        if old == new or not old or not new:
            continue
        if not _named(what, meant):
            about = ABOUT.get(what, OTHERWISE).format(old=old, new=new, what=what)
            raise UserError(
                f"{folder.parent}: {about}; put that right, choose another run.out, or add "
                f"--change {what} to go on all the same"
            )
        changes[what] = [old, new]
    return changes


def _beside_shares(
    before: Mapping[str, Option], now: Mapping[str, Option]
) -> tuple[dict[str, Option], dict[str, Option]]:
    """Options but for those that follow the run's length in both."""
    values = without_shares(*({key: o.value for key, o in each.items()} for each in (before, now)))
    return {key: before[key] for key in values[0]}, {key: now[key] for key in values[1]}


def _differences(
    before: Mapping[str, Option],
    now: Mapping[str, Option],
    stored: Mapping[str, str],
    used: Mapping[str, str],
) -> dict[str, tuple[Any, Any]]:
    """Options that differ in what counts: [before, now]."""
    found = {}
    for key in sorted(set(before) | set(now)):
        old, new = before.get(key), now.get(key)
        option = new or old
        assert option is not None
        same = stored.get(option.place) if option.place else None
        if option.free or (same and same == used.get(option.place)):
            continue
        values = old.value if old else None, new.value if new else None
        if values[0] != values[1]:
            found[key] = values
    return found


def _refusal(folder: Path, refused: Mapping[str, tuple[Any, Any]]) -> str:
    which = " and ".join(f"{key}={old}, not {new}" for key, (old, new) in refused.items())
    change = how_to_change({key: new for key, (_, new) in refused.items()})
    return (
        f"{folder} holds a run with {which}; to change that on purpose add {change}; or choose "
        "another run.out or delete that folder"
    )


def _named(key: str, meant: Sequence[str]) -> bool:
    return any(key == name or key.startswith(f"{name}.") for name in meant)


def _check_names(meant: Sequence[str], known: Sequence[str]) -> None:
    for name in meant:
        if not any(key == name or key.startswith(f"{name}.") for key in known):
            raise UserError(f"--change {name}: no such option; --help lists them")


def is_complete(checkpoint: Path) -> bool:
    """Whether a checkpoint's folder has all its files, whole as far as their ends tell."""
    from safetensors import SafetensorError, safe_open

    try:
        read_yaml(checkpoint / CONFIG)
        with safe_open(checkpoint / WEIGHTS, framework="pt"):
            pass
        with (checkpoint / TRAINING).open("rb") as file:
            return _ends_as_zip(file.read(4), checkpoint / TRAINING)
    except (UserError, SafetensorError, OSError):
        return False


def _ends_as_zip(start: bytes, path: Path) -> bool:
    import zipfile

    return start == b"PK\x03\x04" and zipfile.is_zipfile(path)


def trim_log(path: Path, step: int, changes: Sequence[Mapping[str, Any]]) -> None:
    """Leave of a run's metrics.jsonl what was so at an update; what a crash has torn goes.

    `changes` are those of the checkpoint: of what was changed and then never saved no line stays.
    """
    if not path.exists():
        return
    kept = []
    for line in path.read_bytes().decode("utf-8", errors="replace").splitlines():
        figures = _parsed(line)
        if figures is None or not isinstance(figures.get("step"), int) or figures["step"] > step:
            continue
        if CHANGES not in figures or figures in changes:
            kept.append(line)
    write_text(path, "".join(f"{line}\n" for line in kept))


def _parsed(line: str) -> dict[str, Any] | None:
    try:
        figures = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return figures if isinstance(figures, dict) else None
