"""Whether a published file has the tensors that a network needs, before any value is read."""

from collections.abc import Mapping
from pathlib import Path

from dalle_base.common.errors import UserError

Shapes = Mapping[str, tuple[int, ...]]


def check_shapes(path: Path, found: Shapes, needed: Shapes, network: str) -> None:
    """Raise `UserError` that names the first tensor which is missing, unknown or of other shape.

    Args:
        path: the file, for the message.
        found: the shapes of its tensors, by name.
        needed: those of the network, by name.
        network: what it is called in the message.
    """
    for name in needed:
        if name not in found:
            raise UserError(f"{path} is no {network}: it lacks {name}")
    for name, shape in found.items():
        if name not in needed:
            raise UserError(f"{path} has {name}, which a {network} does not have")
        if shape != needed[name]:
            raise UserError(
                f"{path}: {name} is {list(shape)}, where a {network} has {list(needed[name])}"
            )
