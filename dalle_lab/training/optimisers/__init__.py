"""Optimisers, by name.

ADD AN OPTIMISER = one file in this folder and one line in OPTIMISERS. The file has a function
`make(groups, hidden, config)` to a `torch.optim.Optimizer`; see `adamw.py`.
"""

from typing import Any

from dalle_lab.common.registry import Registry

OPTIMISERS: Registry[Any] = Registry(
    {
        "adamw": "dalle_lab.training.optimisers.adamw:make",
        "muon": "dalle_lab.training.optimisers.muon:make",
    }
)
