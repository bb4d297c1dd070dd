"""Whether a tokenizer's loss may be added up over the parts of a batch (`run.accumulate`)."""

from typing import Any

from dalle_base.common.errors import UserError
from dvae.image_losses_config import ADVERSARIAL, image_losses_of

ADDITIVE = ("fsq", "gumbel")
"""Quantisers without statistics of batches."""


def check_additive(model: Any) -> None:
    """Raise `UserError` where the loss of a batch is more than the mean of its parts' losses.

    Args:
        model: a tokenizer's config.
    """
    because = ""
    if image_losses_of(model)[1].weight:
        because = f"{ADVERSARIAL}.weight=0, since a discriminator steps with each batch"
    elif getattr(getattr(model, "objective", None), "entropy_weight", 0):
        because = "model.objective.entropy_weight=0, since it weighs the codes of a whole batch"
    elif getattr(model, "quantiser", ADDITIVE[0]) not in ADDITIVE:
        because = f"model.quantiser={' or '.join(ADDITIVE)}: others keep statistics of each batch"
    if because:
        raise UserError(
            f"run.accumulate above 1 needs {because}; or raise run.batch_size, or take several "
            "processes"
        )
