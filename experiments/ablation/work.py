"""One cell, in a process of its own: train, evaluate, sample, and write what came of it.

`python -m experiments.ablation.work FOLDER`, with the cell's plan in the folder. The process ends
as on Ctrl-C, its training saved, when its standard input is closed: whoever started it is gone.
"""

import contextlib
import importlib
import io
import json
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TextIO

from dalle_base.common.files import write_file
from dalle_base.common.report import write_json
from experiments.ablation.cells import DONE, FAILED, PLAN, RESULT, SAMPLES
from experiments.ablation.config import EVALUATE

SCALE = 2
"""Factor on the sides of sampled images."""
STOPPED = 130
"""Exit status of a cell that was interrupted: it goes on where it was."""


def main() -> int:
    folder = Path(sys.argv[1])
    threading.Thread(target=_end_with_parent, daemon=True).start()
    plan = json.loads((folder / PLAN).read_text("utf-8"))
    started = time.process_time()
    heard = Heard(sys.stderr)
    try:
        with contextlib.redirect_stderr(heard):
            status = _train_and_measure(folder, plan)
    except Exception as error:
        if os.environ.get("ABLATION_TRACEBACK"):
            raise
        status = 1
        heard.write(f"{type(error).__name__}: {error}\n")
    if status in (STOPPED, -signal.SIGTERM):
        return STOPPED
    seconds = time.process_time() - started
    if status:
        write_json(folder / RESULT, {"status": FAILED, "reason": heard.reason()})
        return 1
    figures = last_figures(folder)
    write_json(folder / RESULT, {"status": DONE, "seconds": seconds, "figures": figures})
    return 0


def _train_and_measure(folder: Path, plan: dict[str, Any]) -> int:
    if plan["script"] != EVALUATE:
        model = plan["model"]
        texts = [*plan["train"], f"run.out={folder / 'run'}"]
        if status := _call(importlib.import_module(plan["script"]).main, texts):
            return status
    else:
        model = plan["model"]
    if plan["evaluate"]:
        texts = [model, *plan["evaluate"], "--json", str(folder / "evaluation.json")]
        if status := _call(importlib.import_module("evaluate").main, texts):
            return status
    if plan["captions"]:
        _sample(Path(model), plan["captions"], folder / SAMPLES)
    return 0


def _call(main: Callable[[], int], texts: list[str]) -> int:
    """Return the status of a script's `main`, called with arguments."""
    before, sys.argv = sys.argv, [main.__module__, *texts]
    try:
        return main() or 0
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else int(bool(end.code))
    finally:
        sys.argv = before


def _sample(model: Path, captions: list[str], out: Path) -> None:
    """Write the first candidate of each caption, all of seed 0, as one row."""
    from dalle.checkpoint import load_text_to_image
    from dalle_base.common.images import grid

    images = load_text_to_image(model, rerank=False).generate(captions, seed=0).images
    row = grid(images, len(images), scale=SCALE)
    write_file(out, lambda new: row.save(new, format="PNG"), sync=False)


def last_figures(folder: Path) -> dict[str, float]:
    """Return the last value of each figure that a cell has logged, and those of evaluate.py.

    Those of a nested record have dotted names. What is no number is left out.
    """
    figures: dict[str, float] = {}
    with contextlib.suppress(OSError):
        for line in (folder / "run" / "metrics.jsonl").read_text("utf-8").splitlines():
            figures |= dict(numbers(json.loads(line)))
    with contextlib.suppress(OSError):
        record = json.loads((folder / "evaluation.json").read_text("utf-8"))
        figures |= dict(numbers(record))
    return figures


def numbers(record: Any, name: str = "") -> Iterator[tuple[str, float]]:
    """Yield the numbers in nested mappings by their dotted names."""
    if isinstance(record, dict):
        for key, value in record.items():
            yield from numbers(value, f"{name}.{key}" if name else str(key))
    elif isinstance(record, int | float) and not isinstance(record, bool):
        yield name, float(record)


class Heard(io.TextIOBase):
    """Passes a stream on and remembers its last lines: a failure's reason is among them."""

    def __init__(self, stream: TextIO) -> None:
        self.stream, self.text = stream, ""

    def write(self, text: str) -> int:
        """Pass text on."""
        self.text = (self.text + text)[-5000:]
        return self.stream.write(text)

    def flush(self) -> None:
        """Pass on what is held."""
        self.stream.flush()

    def isatty(self) -> bool:
        """No progress bar is drawn for eyes."""
        return False

    def reason(self) -> str:
        """Return the line that says why, without what a progress bar wrote before it."""
        lines = [line.rpartition("\r")[2].strip() for line in self.text.splitlines()]
        lines = [line for line in lines if line]
        errors = [line for line in lines if "error: " in line or "Error: " in line]
        return (errors or lines or ["no reason was given"])[-1].removeprefix("error: ")


def _end_with_parent() -> None:
    with contextlib.suppress(OSError, ValueError):
        while os.read(0, 1024):
            pass
    os.kill(os.getpid(), signal.SIGTERM)


if __name__ == "__main__":
    raise SystemExit(main())
