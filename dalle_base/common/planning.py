"""`--plan`: what a training script would need of memory, asked for before it is started."""

from collections.abc import Sequence

from dalle_base.common.errors import UserError

PLAN = "--plan"
USAGE = """
With --plan [CONFIG] it trains nothing and says what it would need of each device's memory, on one
and on several (8, or 16 with --plan=16).
"""
DEVICES = 8


def take_plan(arguments: Sequence[str]) -> tuple[int, list[str]]:
    """Return for how many devices a plan is asked for (0: it is not), and the other arguments.

    Raises `UserError` for a number of devices that is none.
    """
    rest = list(arguments)
    at = next((i for i, word in enumerate(rest) if word.split("=")[0] == PLAN), None)
    if at is None:
        return 0, rest
    _, given, count = rest.pop(at).partition("=")
    if given and not (count.isdecimal() and int(count) >= 1):
        raise UserError(f"--plan={count}: write a number of devices, such as --plan=8")
    # `--plan configs/dalle/paper.yaml` means that config.
    if at < len(rest) and rest[at].endswith((".yaml", ".yml")) and "=" not in rest[at]:
        rest.insert(at, "--config")
    return int(count) if given else DEVICES, rest
