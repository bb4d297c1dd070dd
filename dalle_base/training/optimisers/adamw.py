"""AdamW, as the paper has it (appendices A.2 and B.2)."""

from collections.abc import Collection
from typing import Any

import torch
from torch import Tensor

from dalle_base.training.config import OptimiserConfig


def make(
    groups: list[dict[str, Any]], hidden: Collection[Tensor], config: OptimiserConfig
) -> torch.optim.Optimizer:
    """Return the optimiser of parameter groups.

    Args:
        groups: parameters with their weight decay, which comes before `config`'s.
        hidden: the weights between hidden layers, for optimisers that treat them apart.
        config: step size at the top of the schedule, betas and the rest.
    """
    return torch.optim.AdamW(groups, **adamw_options(config))


def adamw_options(config: OptimiserConfig) -> dict[str, Any]:
    """Return what AdamW, and what is built on it, takes from a config."""
    return {
        "lr": config.lr,
        "betas": (config.beta1, config.beta2),
        "eps": config.eps,
        "weight_decay": config.weight_decay,
    }
