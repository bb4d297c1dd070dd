"""Schedules as plain functions of the number of updates done."""

import math


def cosine(step: int, updates: int, start: float, end: float) -> float:
    """Return a value that goes from `start` to `end` over the first `updates` updates.

    Half a cosine wave, then constant at `end` (appendix A.2: step size, β and τ of the dVAE).
    """
    if step >= updates:
        return end
    return end + (start - end) * 0.5 * (1 + math.cos(math.pi * step / updates))


def warmup(step: int, updates: int) -> float:
    """Return a factor that rises linearly to 1 over the first `updates` updates (appendix B.2)."""
    return 1.0 if step + 1 >= updates else (step + 1) / updates


class Plateau:
    """Halve a factor each time the training loss stops falling (appendix B.2).

    The loss is averaged over windows of `patience` updates. A window whose mean is not lower than
    the best one by `threshold` (relative) is a plateau: the factor is halved, at most `halvings`
    times. The paper halved by hand, five times; this is the rule made explicit.
    """

    def __init__(self, patience: int, threshold: float, halvings: int) -> None:
        self.patience, self.threshold, self.halvings = patience, threshold, halvings
        self.total, self.count, self.best, self.halved = 0.0, 0, math.inf, 0

    @property
    def factor(self) -> float:
        return 0.5**self.halved

    def update(self, loss: float) -> None:
        """Take one update's training loss."""
        self.total += loss
        self.count += 1
        if self.count < self.patience:
            return
        mean = self.total / self.count
        if mean > self.best * (1 - self.threshold) and self.halved < self.halvings:
            self.halved += 1
        self.best = min(self.best, mean)
        self.total, self.count = 0.0, 0

    def state_dict(self) -> dict[str, float]:
        return {name: getattr(self, name) for name in ("total", "count", "best", "halved")}

    def load_state_dict(self, state: dict[str, float]) -> None:
        for name, value in state.items():
            setattr(self, name, value)
