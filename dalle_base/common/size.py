"""The least size of a model, which its config knows before the model is made."""

from typing import NamedTuple


class LeastSize(NamedTuple):
    """Lower bounds: what is refused for its size would never have fitted."""

    parameters: float
    """How many parameters there are."""
    activations: float
    """Numbers that training keeps of each example, for the backward pass."""
    constants: float = 0
    """Bytes that are neither."""
