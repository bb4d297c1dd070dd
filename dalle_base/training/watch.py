"""What becomes of an update that is not as others: figures that are not finite, spikes of the loss.

The figures that are judged are the same in all processes of a run, and so is what is decided.
"""

import math
from typing import Any

from dalle_base.common.errors import UserError
from dalle_base.training.config import OptimiserConfig

NOT_FINITE = (
    "the {what} is {value} at update {step}: the same command with --change optimiser.lr=LOWER "
    "(now {lr:g}), --change optimiser.clip=1 or optimiser.non_finite=skip goes on from the last "
    "checkpoint"
)
"""What is said of an update whose figures are not finite."""
DECAY, YOUNG = 0.98, 50
"""Decay of the averages that a loss is compared with; they count from so many losses on."""
LEAST_DEVIATION = 0.01
"""A loss that hardly moves deviates by at least this share of itself."""
SCALED_SKIPS = 50
"""Updates in a row that a gradient scale may give up before the fault cannot be the scale's."""


class DivergedError(UserError):
    """A run stops at an update that went wrong. The weights are those from before that update."""


class Watch:
    """Judges each update before it is taken."""

    def __init__(self, config: OptimiserConfig, complaint: str = NOT_FINITE) -> None:
        """Begin with no update seen.

        Args:
            config: says what is done.
            complaint: what to say of figures that are not finite, with {what}, {value}, {step}
                and {lr}.
        """
        self.config, self.complaint = config, complaint
        self.mean = 0.0
        self.deviation = 0.0
        self.seen = 0
        self.in_a_row = 0
        self.skipped = 0
        self.spikes = 0

    def judge(self, loss: float, norm: float, step: int, scaled: bool = False) -> tuple[bool, str]:
        """Return whether to take an update, and what there is to say of it, if anything.

        Args:
            loss: its loss.
            norm: its gradient's norm.
            step: its number.
            scaled: whether a gradient scale, which then falls, may be what made it not finite.

        Raises:
            DivergedError: the config says stop, or too many updates in a row were skipped.
        """
        for what, value in (("loss", loss), ("gradient norm", norm)):
            if math.isfinite(value):
                continue
            if scaled and what == "gradient norm":
                return self._skip("", step, SCALED_SKIPS)
            if self.config.non_finite == "stop":
                raise DivergedError(
                    self.complaint.format(what=what, value=value, step=step, lr=self.config.lr)
                )
            return self._skip(f"the {what} is {value}", step, self.config.most_skips)
        usual, spike = self.mean, loss > self._ceiling()
        self._remember(loss)
        if spike:
            self.spikes += 1
            what = f"the loss is {loss:.4g}, usually {usual:.4g}"
            if self.config.on_spike == "skip":
                return self._skip(what, step, self.config.most_skips)
            if self.config.on_spike == "stop":
                raise DivergedError(
                    f"{what}, at update {step}: optimiser.on_spike=say or skip goes on"
                )
        self.in_a_row = 0
        return True, f"update {step}: {what}" if spike else ""

    def _skip(self, what: str, step: int, most: int) -> tuple[bool, str]:
        self.skipped += 1
        self.in_a_row += 1
        if self.in_a_row > most:
            what = what or "the gradient norm is not finite, whatever its scale"
            raise DivergedError(
                f"{what}, at update {step}, and the {most} before it were skipped already: go on "
                "with a lower optimiser.lr or an optimiser.clip"
            )
        said = f"update {step}: {what}; skipped, {self.in_a_row} in a row, {self.skipped} in all"
        return False, said if what else ""

    def _ceiling(self) -> float:
        """The largest loss that is no spike."""
        if not self.config.spike or self.seen < YOUNG:
            return math.inf
        deviation = max(self.deviation, LEAST_DEVIATION * abs(self.mean))
        return self.mean + self.config.spike * deviation

    def _remember(self, loss: float) -> None:
        loss = min(loss, self._ceiling())  # the averages take a spike's time to get used to it
        self.seen += 1
        rate = max(1 - DECAY, 1 / self.seen)  # plain means while they are young
        if self.seen > 1:
            self.deviation += rate * (abs(loss - self.mean) - self.deviation)
        self.mean += rate * (loss - self.mean)

    def state_dict(self) -> dict[str, Any]:
        """Return what a resumed run needs, as plain numbers."""
        return {name: v for name, v in vars(self).items() if isinstance(v, int | float)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from `state_dict`."""
        vars(self).update(state)
