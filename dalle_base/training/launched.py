"""How many processes were started together. Needs no torch.

What starts them (`torchrun`, `accelerate launch`) tells each in its environment how many there are.
"""

import os

from dalle_base.common.errors import UserError

COUNTS = ("WORLD_SIZE", "OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "MV2_COMM_WORLD_SIZE")
STEP_COUNT = "SLURM_STEP_NUM_TASKS"
"""Where launchers say how many processes they start: that of srun counts where no other speaks."""
HOW = "start them by torchrun or accelerate launch (docs/scale.md)"


def launched_processes() -> int:
    """How many processes the launcher says it starts, 1 without a launcher.

    Raises:
        UserError: it does not say which of them this is.
    """
    found = next((name for name in COUNTS if os.environ.get(name)), STEP_COUNT)
    text = os.environ.get(found) or "1"
    if not text.isdecimal() or int(text) < 1:
        raise UserError(f"{found} is {text!r}: it counts processes; {HOW}")
    if found == "WORLD_SIZE" and int(text) > 1 and not _number("RANK", int(text)):
        raise UserError(f"WORLD_SIZE is {text}, but RANK is not one of {text} numbers; {HOW}")
    return int(text)


def _number(name: str, below: int) -> bool:
    text = os.environ.get(name, "")
    return text.isdecimal() and int(text) < below
