"""Optimisers, by name.

ADD AN OPTIMISER = one file in this folder and one line in OPTIMISERS. The file has a function
`make(groups, hidden, config)` to a `torch.optim.Optimizer`; see `adamw.py`.
"""

from typing import Any

from dalle_base.common.registry import Registry

OPTIMISERS: Registry[Any] = Registry(
    {
        "adamw": "dalle_base.training.optimisers.adamw:make",
        "muon": "dalle_base.training.optimisers.muon:make",
    }
)
