"""A script for tests: writes a folder or file again and again, killed at each step of it in turn.

python tests/killed_writer.py FOLDER KIND EXISTS

In processes of its own, without torch, so that hundreds of them take no time. Prints a JSON list of
what each kill left, and what was there after the next start had recovered it.
"""

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

from dalle_base.common import files
from dalle_base.common.leftovers import clear_leftovers, recover

KILLED = 77


def fill(text: str) -> Callable[[Path], None]:
    def write(place: Path) -> None:
        for path in (place / "a", place / "b") if place.is_dir() else (place,):
            path.write_text(text)

    return write


def content(place: Path) -> list[str]:
    paths = sorted(place.iterdir()) if place.is_dir() else [place]
    return [path.read_text() for path in paths]


def die_at(at: int) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Return what wraps calls so that the process ends before or after the one that is `at`."""
    counted = iter(range(10**6))

    def step() -> None:
        if next(counted) == at:
            os._exit(KILLED)

    def wrap(call: Callable[..., Any]) -> Callable[..., Any]:
        def stepped(*arguments: Any, **options: Any) -> Any:
            step()
            result = call(*arguments, **options)
            step()
            return result

        return stepped

    return wrap


def write_and_die(target: Path, kind: str, at: int) -> None:
    wrap = die_at(at)
    if "without exchange" in kind:
        files.exchange = lambda *_: False
    for name in ("rename", "replace", "mkdir", "touch", "chmod", "unlink"):
        setattr(Path, name, wrap(getattr(Path, name)))
    os.fsync = wrap(os.fsync)  # type: ignore[assignment]
    files.exchange, files.remove = wrap(files.exchange), wrap(files.remove)
    write = files.write_file if kind == "file" else files.write_folder
    write(target, wrap(fill("new")))
    os._exit(0)


def kill_at(target: Path, kind: str, exists: bool, at: int) -> dict[str, Any]:
    target.parent.mkdir()
    if exists:
        (files.write_file if kind == "file" else files.write_folder)(target, fill("old"))
    child = os.fork()
    if not child:
        write_and_die(target, kind, at)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    missing, said = not target.exists(), []
    recover(target, said.append)
    clear_leftovers(target.parent)
    return {
        "status": status,
        "missing": missing,
        "said": said,
        "names": sorted(path.name for path in target.parent.iterdir()),
        "content": content(target) if target.exists() else [],
    }


def main() -> None:
    os.fsync = lambda _: None  # type: ignore[assignment]  # the system goes on: nothing is lost
    folder, kind, exists = Path(sys.argv[1]), sys.argv[2], sys.argv[3] == "True"
    found: list[dict[str, Any]] = []
    while not found or found[-1]["status"] == KILLED:
        at = len(found)
        found.append(kill_at(folder / str(at) / "checkpoint", kind, exists, at))
    print(json.dumps(found))


if __name__ == "__main__":
    main()
