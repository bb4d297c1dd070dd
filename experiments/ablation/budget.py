"""How many updates a budget allows a variant: of images, tokens, operations or minutes."""

import json
import math
from pathlib import Path
from statistics import median
from typing import Any

from dalle_base.common.errors import UserError
from experiments.ablation.config import Budget

WARM_UP = 3
"""Updates at the start of a timing that are slower than the rest."""
TIMED = 15
"""Updates of a timing."""


def updates_for(budget: Budget, config: Any, seconds: float = 0.0) -> int:
    """Return how many updates a script's config gets. Raises `UserError` where it gets none.

    Args:
        budget: the ablation's.
        config: of the script.
        seconds: that an update takes, for a budget in minutes.
    """
    images = config.run.batch_size * config.run.accumulate
    spent = {
        "updates": lambda: 1.0,
        "images": lambda: images,
        "tokens": lambda: images * stream_length(config),
        "flops": lambda: operations(config) * config.run.accumulate,
        "minutes": lambda: seconds / 60,
    }[budget.kind]()
    updates = math.floor(getattr(budget, budget.kind) / spent + 1e-9)
    if updates < 1:
        raise UserError(f"budget.{budget.kind} is less than one update takes ({spent:.3g})")
    return updates


def stream_length(config: Any) -> int:
    """Return the text and image tokens of a caption and its image. Raises `UserError`."""
    if not hasattr(config.model, "stream"):
        raise UserError("budget.tokens is for transformers; use images, flops or minutes")
    with_grid(config)
    return config.model.stream.length


def operations(config: Any) -> float:
    """Return the floating-point operations of one batch, forward and backward."""
    from dalle_base.training.flops import flops_of_update

    if hasattr(config.model, "stream"):
        from dalle.plan import transformer_pass

        with_grid(config)
        return flops_of_update(*transformer_pass(config.model, config.run))
    if hasattr(config, "chunk_images"):
        from dual_encoder.plan import dual_encoder_pass

        made = dual_encoder_pass(config.model, config.loss, config.chunk_images, config.run)
        return flops_of_update(*made)
    from dvae.plan import tokenizer_pass

    return flops_of_update(*tokenizer_pass(config, config.run))


def with_grid(config: Any) -> None:
    """Let a transformer's config have its tokenizer's grid. Raises `UserError`."""
    if config.from_tokenizer:
        from dvae.checkpoint import load_tokenizer
        from train_dalle import take_grid

        take_grid(config, load_tokenizer(Path(config.tokenizer))[0])


def seconds_per_update(log: Path) -> float:
    """Return the median of the times that a timing's metrics.jsonl has, the first ones left out."""
    times = [
        line["seconds_per_update"]
        for line in map(json.loads, log.read_text("utf-8").splitlines())
        if "seconds_per_update" in line
    ]
    return median(times[WARM_UP:] or times)
