"""What the benchmarks share: timing in turns, peak memory, the machine's ceilings, the report."""

import contextlib
import gc
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch


def interleaved(functions: Mapping[str, Callable[[], object]], rounds: int) -> dict[str, float]:
    """Return each function's median time in seconds.

    They take turns, so that a machine that slows down meanwhile slows all of them; one call of
    each goes uncounted first.
    """
    times: dict[str, list[float]] = {name: [] for name in functions}
    for round_ in range(rounds + 1):
        for name, function in functions.items():
            start = time.perf_counter()
            function()
            if round_:
                times[name].append(time.perf_counter() - start)
    return {name: statistics.median(values) for name, values in times.items()}


def memory_of(function: Callable[[], object]) -> float:
    """Return how far a call raises this process's memory above what it holds before, in MB.

    MB are 10^6 bytes. The call is made twice, for what only a first call loads; where the system
    cannot forget an earlier peak (anything but Linux), once. To be repeatable, in `in_new_process`.
    """
    if sys.platform == "linux":
        function()
    gc.collect()
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")  # the peak so far becomes what is held now
    before = _peak_bytes()
    function()
    return (_peak_bytes() - before) / 1e6


def _peak_bytes() -> int:
    with contextlib.suppress(OSError):
        status = Path("/proc/self/status").read_text()
        return int(status.split("VmHWM:")[1].split()[0]) * 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def in_new_process(module: str, *arguments: object) -> Any:
    """Run `python -m module arguments` and return the JSON of its last line.

    Its tensors return to the system when they are freed, so that `memory_of` counts each anew.
    """
    command = [sys.executable, "-m", module, *map(str, arguments)]
    environment = os.environ | {"MALLOC_MMAP_THRESHOLD_": "65536"}  # glibc's; elsewhere nothing
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env=environment)
    return json.loads(done.stdout.strip().splitlines()[-1])


def ceiling(dtype: torch.dtype, size: int = 2048, rounds: int = 5) -> float:
    """Return the rate of a large square matrix product on the CPU, in operations a second.

    The product is as large as `size`, unless a smaller one takes long already: a machine without
    units for a type may be a hundred times slower in it.
    """
    side = min(256, size)
    while True:
        a, b = (torch.randn(side, side).to(dtype) for _ in range(2))
        seconds = interleaved({"product": partial(torch.matmul, a, b)}, rounds)["product"]
        if side >= size or seconds > 0.1:
            return 2 * side**3 / seconds
        side = min(2 * side, size)


def machine() -> dict[str, object]:
    """Return what a figure depends on besides the code."""
    return {
        "processor": _processor(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "python": platform.python_version(),
    }


def _processor() -> str:
    with contextlib.suppress(OSError):
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.split(":", 1)[1].strip() for line in lines if "model name" in line)
    return platform.processor()


def report(ratios: Mapping[str, float], **details: object) -> None:
    """Print the last line: one JSON object."""
    rounded = {name: round(value, 3) for name, value in ratios.items()}
    print(json.dumps({"ratios": rounded, "machine": machine(), **details}))
