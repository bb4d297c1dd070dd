"""Fingerprints of a model folder's files, kept beside them: what belongs together is told apart."""

import json
from pathlib import Path
from typing import Any

from dalle_base.common.errors import UserError
from dalle_base.common.files import write_text
from dalle_base.common.free import options
from dalle_base.common.model_folders import CONFIG, WEIGHTS

FINGERPRINTS = "fingerprints.json"
SEALED = (CONFIG, WEIGHTS, "text.json")
"""Files that have a fingerprint, where a folder has them."""
MEANING = "config"
"""Key of the fingerprint of what the config says, however it is written."""
TEXTS = (".yaml", ".json")
"""Files in which a line may end in either way: version control changes that."""


def file_fingerprint(path: Path) -> str:
    """Return a short hash of a file's content. Raises `UserError` if it cannot be read."""
    import xxhash  # as fast as memory, and no one is to be fooled

    digest = xxhash.xxh3_128()
    try:
        if path.suffix in TEXTS:
            digest.update(path.read_bytes().replace(b"\r\n", b"\n"))
        else:
            with path.open("rb") as file:
                while part := file.read(2**20):
                    digest.update(part)
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}") from None
    return digest.hexdigest()[:16]


def config_fingerprint(config: Any) -> str:
    """Return a short hash of what a config says other than its defaults.

    What is free to differ (how a model is sampled from, say) does not count.
    """
    import xxhash

    usual = options(type(config)())
    said = [
        f"{key}={option.value!r}"
        for key, option in sorted(options(config).items())
        if not option.free and (key not in usual or usual[key].value != option.value)
    ]
    return xxhash.xxh3_128("\n".join(said).encode()).hexdigest()[:16]


def seal(folder: Path, config: Any = None) -> None:
    """Write the fingerprints of a folder's files, and of what its config says if it is given."""
    found = {name: file_fingerprint(folder / name) for name in SEALED if (folder / name).exists()}
    if config is not None:
        found[MEANING] = config_fingerprint(config)
    write_text(folder / FINGERPRINTS, json.dumps(found, indent=1) + "\n")


def check_seal(folder: Path, config: Any = None, names: tuple[str, ...] = SEALED) -> None:
    """Raise `UserError` that names the first file which is not the one that was saved.

    A folder without fingerprints is of an earlier version: there is nothing to compare with.

    Args:
        folder: of a model or a run's checkpoint.
        config: what the folder's config says; one that says the same in another way is the same.
        names: of the files that are to be looked at.
    """
    stored = read_seal(folder)
    for name in names:
        if name not in stored or not (folder / name).exists():
            continue
        found = file_fingerprint(folder / name)
        if found == stored[name]:
            continue
        if name == CONFIG and config is not None and _says(config, stored):
            continue
        raise UserError(
            f"{folder / name} is not the file that was saved here (fingerprint {found}, saved "
            f"{stored[name]}): copy the whole folder again, or, if it was changed on purpose, run "
            f"python -m dalle.fingerprints {folder}"
        )


def read_seal(folder: Path) -> dict[str, str]:
    """Return a folder's fingerprints by file; {} where it has none. Raises `UserError`."""
    path = folder / FINGERPRINTS
    if not path.exists():
        return {}
    try:
        stored = json.loads(path.read_bytes())
        if not isinstance(stored, dict):
            raise ValueError("no mapping")
    except (OSError, ValueError, RecursionError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"{path} is damaged ({reason}); copy the whole folder again") from None
    return stored


def _says(config: Any, stored: dict[str, str]) -> bool:
    return stored.get(MEANING) == config_fingerprint(config)
