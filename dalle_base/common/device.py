"""Where a model runs: the device that was asked for, or the fastest that there is."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from dalle_base.common.errors import UserError


def choose_device(name: str = "auto") -> torch.device:
    """Return the device of a name; "auto" takes a GPU where there is one.

    Raises:
        UserError: a device that does not exist, or is not there.
    """
    there = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if name == "auto":
        name = next((kind for kind, found in there.items() if found), "cpu")
    if not there.get(name.split(":")[0], True):
        raise UserError(f"--device {name}: there is no such device here; use auto or cpu")
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise UserError(f"--device {name} cannot be used: {_first_line(error)}") from None
    return device


def choose_precision(name: str, device: torch.device) -> str:
    """Return a precision's name: "auto" is bfloat16 on a GPU that computes in it, else float32."""
    if name != "auto":
        return name
    fast = device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
    return "bfloat16" if fast else "float32"


def announce(device: torch.device) -> None:
    """Say on standard error where the models run."""
    name = f" ({torch.cuda.get_device_name(device)})" if device.type == "cuda" else ""
    print(f"device: {device}{name}", file=sys.stderr)


@contextmanager
def enough_memory(advice: str, **settings: object) -> Iterator[None]:
    """Turn a device that has no memory left into a `UserError` that ends with advice and, beside
    it, the settings that memory depends on, as they are.
    """
    if settings:
        advice += f" (now {', '.join(f'{name} {value}' for name, value in settings.items())})"
    try:
        yield
    except torch.OutOfMemoryError as error:
        raise UserError(f"{_gpu()} no memory left ({_first_line(error)}); {advice}") from None
    except (RuntimeError, MemoryError) as error:
        # What the allocators of CPUs and of Apple's GPUs say; NumPy and Python have a class for it.
        said = any(text in str(error) for text in ("can't allocate memory", "out of memory"))
        if not said and not isinstance(error, MemoryError):
            raise
        raise UserError(f"no memory left ({_first_line(error)}); {advice}") from None


def _gpu() -> str:
    if not torch.cuda.is_available():
        return "the device has"
    free, total = torch.cuda.mem_get_info()
    return f"the GPU, with {free / 1e9:.1f} of {total / 1e9:.1f} GB free now, has"


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [""])[0][:120]
