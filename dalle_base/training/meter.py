"""How fast a run is, what memory it takes and how long it will still take."""

import sys
import time

import torch

MACHINE = ("seconds_per_update", "images_per_s", "tokens_per_s", "memory_gb", "minutes_left")
"""Figures that are the machine's, not the run's: they differ from one time to the next."""


class Meter:
    """Times updates, without what lies between them: measuring, previews, saving."""

    def __init__(self, device: torch.device, images: int, tokens: int = 0) -> None:
        """Begin a session.

        Args:
            device: whose memory is looked at.
            images: in an update, over all processes.
            tokens: that a model reads of an image, its caption included; 0: it reads none.
        """
        self.device, self.images, self.tokens = device, images, tokens
        self.started = self._begun = time.monotonic()
        self._seconds, self._updates, self._all = 0.0, 0, 0

    def begin(self) -> None:
        """An update begins."""
        self._begun = time.monotonic()

    def end(self) -> None:
        """It ends: its loss is known."""
        now = time.monotonic()
        self._seconds += now - self._begun
        self._begun = now
        self._updates += 1
        self._all += 1

    def figures(self, left: int, minutes: float = 0.0, reset: bool = True) -> dict[str, float]:
        """Return the figures named in `MACHINE`, of the updates since they were last reset.

        Args:
            left: updates still to do.
            minutes: after which the run stops, from its start; 0: it does not.
            reset: whether the next figures are to be of later updates alone.
        """
        if not self._updates:
            return {}
        seconds = self._seconds / self._updates
        speed = self.images / max(seconds, 1e-9)
        figures = {"seconds_per_update": seconds, "images_per_s": speed}
        if self.tokens:
            figures["tokens_per_s"] = speed * self.tokens
        figures["memory_gb"] = peak_memory(self.device) / 1e9
        passed = (time.monotonic() - self.started) / 60
        remaining = passed / self._all * left
        figures["minutes_left"] = min(remaining, minutes - passed) if minutes else remaining
        if reset:
            self._seconds, self._updates = 0.0, 0
        return figures


def peak_memory(device: torch.device) -> int:
    """The most bytes that this process has had: tensors on a GPU, all on a CPU; 0: not known."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    if sys.platform == "win32":
        return 0
    import resource

    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
