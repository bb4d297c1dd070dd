"""Arguments that several scripts have. Needs no torch, so that mistakes are answered at once."""

import argparse
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import Any

from dalle_base.common.bounds import check_number, is_whole, range_text

DEVICES = ("auto", "cpu", "cuda", "mps")


class Number(argparse.Action):
    """A flag whose number has bounds: `add_argument("--top", action=Number, kind=From1)`.

    Raises `UserError` for a number, or one of several, that is out of them.
    """

    def __init__(self, *, kind: Any, help: str = "", **options: Any) -> None:  # noqa: A002
        bounds = range_text(kind).replace("%", "%%")
        help_text = f"{help} ({bounds})" if bounds else help
        super().__init__(type=int if is_whole(kind) else float, help=help_text, **options)
        self.kind = kind

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: Any,
        option_string: str | None = None,
    ) -> None:
        for value in values if isinstance(values, Sequence) else [values]:
            check_number(value, self.kind, option_string or self.dest)
        setattr(namespace, self.dest, values)


def add_fields(
    parser: argparse._ActionsContainer,
    kind: type,
    helps: Mapping[str, str],
    flags: Mapping[str, str],
    defaults: bool = True,
) -> None:
    """Add a flag for each number of a dataclass that `helps` has a word on, with its bounds.

    Args:
        parser: to add to.
        kind: the dataclass.
        helps: by the field's name.
        flags: of fields whose flag has another name (`flag_of`).
        defaults: whether the fields' defaults are the flags'; else a flag left out is None.
    """
    for each in fields(kind):
        if each.name in helps:
            said = f"{helps[each.name]} (default: {each.default})" if defaults else helps[each.name]
            parser.add_argument(
                flag_of(each.name, flags),
                dest=each.name,
                action=Number,
                kind=each.type,
                default=each.default if defaults else None,
                metavar="N",
                help=said,
            )


def flag_of(name: str, flags: Mapping[str, str]) -> str:
    """Return the flag of a field: its name, unless `flags` has another."""
    return flags.get(name, "--" + name.replace("_", "-"))


def program(script: str) -> list[str]:
    """Return by which words a script is run: as this process was, installed or in a checkout."""
    if sys.argv[0].startswith("dalle "):
        return ["dalle", *script.split("_")]
    return ["python", f"{script}.py"]


def add_device(parser: argparse._ActionsContainer) -> None:
    """Add `--device`."""
    parser.add_argument(
        "--device",
        type=_device,
        default="auto",
        help="auto (a GPU where there is one), cpu, cuda or mps (default: %(default)s)",
    )


def _device(name: str) -> str:
    if not re.fullmatch(rf"({'|'.join(DEVICES)})(:\d+)?", name):
        raise argparse.ArgumentTypeError(f"{name!r} is none of {', '.join(DEVICES)}")
    return name
