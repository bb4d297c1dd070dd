"""Whether a published file has the tensors that a network needs, and its images a fitting size."""

from collections.abc import Mapping
from pathlib import Path

from dalle_base.common.errors import UserError

Shapes = Mapping[str, tuple[int, ...]]


def check_shapes(path: Path, found: Shapes, needed: Shapes, network: str) -> None:
    """Raise `UserError` that names the first tensor which is missing, unknown or of other shape,
    and says how many there are.

    Args:
        path: the file, for the message.
        found: the shapes of its tensors, by name.
        needed: those of the network, by name.
        network: what it is called in the message.
    """
    missing = [name for name in needed if name not in found]
    if missing:
        raise UserError(f"{path} is no {network}: it lacks {missing[0]}{_more(missing)}")
    unknown = [name for name in found if name not in needed]
    if unknown:
        raise UserError(f"{path} has {unknown[0]}{_more(unknown)}, which a {network} does not have")
    other = [name for name, shape in found.items() if shape != needed[name]]
    if other:
        own, right = list(found[other[0]]), list(needed[other[0]])
        raise UserError(f"{path}: {other[0]} is {own}, where a {network} has {right}{_more(other)}")


def _more(names: list[str]) -> str:
    return f" (and {len(names) - 1} more)" if len(names) > 1 else ""


def check_image_size(image_size: int, downsampling: int) -> None:
    """Raise `UserError` unless images of a size, in pixels, come out as a grid of whole codes."""
    if image_size < 1 or image_size % downsampling:
        raise UserError(
            f"--image-size is {image_size}: write a multiple of the {downsampling} pixels "
            "that one code stands for"
        )
