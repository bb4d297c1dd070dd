"""Which parameters decay: one rule for all models."""

from typing import Any

from torch import nn


def decay_groups(model: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Two groups for an optimiser: matrices decay; gains, biases and tables do not.

    A matrix has two or more dimensions and is multiplied. A table is looked up: the weights of
    `nn.Embedding`, and the parameters that a module names in its attribute `tables` (positions,
    padding, the start of a stream).
    """
    tables = set()
    for module in model.modules():
        names = ("weight",) if isinstance(module, nn.Embedding) else getattr(module, "tables", ())
        tables |= {getattr(module, name) for name in names}
    matrices = {p for p in model.parameters() if p.ndim > 1} - tables
    return [
        {"params": [p for p in model.parameters() if p in matrices], "weight_decay": weight_decay},
        {"params": [p for p in model.parameters() if p not in matrices], "weight_decay": 0.0},
    ]
