"""A folder for each run of sampling: no two runs share one, and the same run finds its own again.

OUT/CAPTION/run.json     what was asked for, and the files that came of it
OUT/CAPTION-2/...        of another run, or of another caption that is spelt alike
"""

import contextlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import lru_cache
from itertools import count
from pathlib import Path
from typing import Any

from dalle_base.common.files import prepare_folder, slug
from dalle_base.common.fingerprints import file_fingerprint
from dalle_base.common.hub import locate
from dalle_base.common.leftovers import claimed
from dalle_base.common.report import write_json

RUN, PREVIEW = "run.json", "preview.png"


@dataclass
class Output:
    """Where a run writes."""

    folder: Path
    """Exists, and holds nothing of another run."""
    run: Mapping[str, Any]
    """What tells this run from others."""
    files: list[str] = field(default_factory=list)
    """Names of the files that came of it."""
    finished: bool = False
    """Whether the run has come to its end."""

    def finish(self, files: Sequence[str], finished: bool = True) -> None:
        """Say what came of the run; what came of it earlier and now did not is removed."""
        for name in {*self.files} - {*files}:
            (self.folder / name).unlink(missing_ok=True)
        self.files, self.finished = list(files), finished
        self.save()

    def save(self) -> None:
        """Write run.json. Raises `UserError`."""
        record = {"run": self.run, "files": self.files, "finished": self.finished}
        write_json(self.folder / RUN, record)


@contextlib.contextmanager
def open_output(out: Path, name: str, run: Mapping[str, Any]) -> Iterator[Output]:
    """Hold a run's folder: OUT/NAME, with a number behind it where that is another run's.

    Args:
        out: made where it is missing.
        name: a caption, say.
        run: what tells the run from others, as `identity` has it.

    Raises:
        UserError: it cannot be written into.
    """
    run = json.loads(json.dumps(run))  # as it is read back
    made = not out.exists()
    for number in count(1):
        folder = out / (slug(name) if number == 1 else f"{slug(name)}-{number}")
        prepare_folder(folder, "set --out")
        with claimed(folder) as free:
            output = _own(folder, run) if free else None
            if output:
                output.save()
                try:
                    yield output
                finally:
                    _clear(folder)
                    if made:
                        with contextlib.suppress(OSError):  # there is something in it
                            out.rmdir()
                return


def _clear(folder: Path) -> None:
    """Remove a folder of a run that has come to nothing."""
    if {path.name for path in folder.iterdir()} == {RUN}:
        (folder / RUN).unlink()
        folder.rmdir()


def _own(folder: Path, run: Mapping[str, Any]) -> Output | None:
    """Return a folder as this run's; None if there is something of another run in it."""
    there = {path.name for path in folder.iterdir()} - {PREVIEW}
    if not there:
        return Output(folder, run)
    try:
        known = json.loads((folder / RUN).read_text("utf-8"))
        files = [name for name in map(str, known["files"]) if Path(name).name == name]
        finished, same = bool(known["finished"]), known["run"] == run
    except (OSError, ValueError, KeyError, TypeError):
        return None
    # Where somebody has removed an image, the run is to make it again.
    finished &= {*files} - {PREVIEW} <= there
    # What was begun and has come to nothing is in nobody's way.
    begun = there == {RUN} and not files
    return Output(folder, run, files, finished) if same or begun else None


def identity(request: Any, free: Sequence[str]) -> dict[str, Any]:
    """Return what tells a run from others: the fields of what was asked for but those that are
    `free` to differ; files and folders by what is in them.

    Raises `UserError` for a file that cannot be read.
    """
    return {key: _plain(value) for key, value in asdict(request).items() if key not in free}


def _state(file: Path) -> tuple[int, int]:
    known = file.stat()
    return known.st_size, known.st_mtime_ns


@lru_cache
def _fingerprint(file: Path, size: int, changed: int) -> str:
    """Return a file's fingerprint, computed once for all captions while it stays as it is."""
    return file_fingerprint(file)


def _plain(value: Any) -> Any:
    if isinstance(value, Path):
        value = locate(value)
        files = sorted(value.rglob("*.safetensors")) if value.is_dir() else [value]
        return [_fingerprint(file, *_state(file)) for file in files if file.is_file()]
    if isinstance(value, Mapping):
        return {key: _plain(part) for key, part in value.items()}
    return [_plain(part) for part in value] if isinstance(value, list | tuple) else value
