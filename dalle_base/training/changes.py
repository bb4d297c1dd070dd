"""Options of a run that are changed on purpose when it is resumed: `--change KEY=VALUE`."""

import shlex
import sys
from collections.abc import Sequence
from typing import Any, TypeVar

from dalle_base.common.config import load_config
from dalle_base.common.errors import UserError

T = TypeVar("T")
CHANGE = "--change"
HELP = """
A resumed run must have the options that it began with, but for those that change nothing of what it
learns. `--change KEY=VALUE` in place of `KEY=VALUE` takes another value on purpose (`--change KEY`:
as the config has it now); metrics.jsonl and the checkpoint then say so.
"""


def load_run_config(schema: type[T], usage: str, argv: Sequence[str] | None = None) -> T:
    """Return the config of a training script's command line, as `load_config` reads it.

    What comes after `--change` is laid over the rest, and named in `run.changed`. Raises
    `UserError`.
    """
    arguments, changes = list(sys.argv[1:] if argv is None else argv), []
    while CHANGE in arguments:
        at = arguments.index(CHANGE)
        if at + 1 >= len(arguments) or arguments[at + 1].startswith("-"):
            raise UserError(f"{CHANGE} needs what to change: {CHANGE} optimiser.lr=1e-4, say")
        changes.append(arguments[at + 1])
        del arguments[at : at + 2]
    values = [change for change in changes if "=" in change]
    config: Any = load_config(schema, usage.rstrip() + "\n" + HELP, [*arguments, *values])
    config.run.changed = [*config.run.changed, *(change.partition("=")[0] for change in changes)]
    return config


def how_to_change(values: dict[str, Any]) -> str:
    """Return the arguments that change options on purpose, as they are typed."""
    return " ".join(f"{CHANGE} {shlex.quote(f'{key}={value}')}" for key, value in values.items())
