"""An optimiser goes on from what it had, under the settings that it has now."""

from typing import Any


def load_optimiser(optimiser: Any, state: dict[str, Any]) -> None:
    """Load an optimiser's moments and counters; its own options stay (rates, decays, betas).

    Torch's `load_state_dict` takes back the options too: what was changed on purpose would then
    change nothing. Raises `ValueError` where the groups are others.
    """
    own = [
        {name: value for name, value in group.items() if name != "params"}
        for group in optimiser.param_groups
    ]
    optimiser.load_state_dict(state)
    for group, options in zip(optimiser.param_groups, own, strict=True):
        group.update(options)
