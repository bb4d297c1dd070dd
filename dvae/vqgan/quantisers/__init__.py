"""Quantisers, by name: how the encoder's vectors become codes, and codes vectors.

ADD A QUANTISER = one file in this folder and one line in QUANTISERS.
"""

from typing import TYPE_CHECKING, Any

from dalle_base.common.errors import UserError
from dalle_base.common.registry import Registry
from dalle_base.common.schema import build
from dalle_base.common.shown import short

if TYPE_CHECKING:
    from dvae.vqgan.quantisers.base import Quantiser

QUANTISERS: "Registry[type[Quantiser]]" = Registry(
    {
        "vq": "dvae.vqgan.quantisers.vq:VQ",
        "ema": "dvae.vqgan.quantisers.ema:EMA",
        "cosine": "dvae.vqgan.quantisers.cosine:Cosine",
        "fsq": "dvae.vqgan.quantisers.fsq:FSQ",
        "gumbel": "dvae.vqgan.quantisers.gumbel:Gumbel",
    }
)


def make_quantiser(name: str, codebook_size: int, width: int, options: Any = None) -> "Quantiser":
    """Return the quantiser of a name.

    Args:
        name: a key of QUANTISERS.
        codebook_size: number of codes K.
        width: values of a vector, unless the quantiser has a width of its own.
        options: values of fields of its `Options`, by their names.

    Raises:
        UserError: an option that the quantiser does not have, or a value that it refuses.
    """
    kind, key = QUANTISERS[name], f"model.quantiser_options.{name}"
    if options is not None and not isinstance(options, dict):
        raise UserError(f"{key} is {short(options)}, no mapping of options")
    return kind(codebook_size, width, build(kind.Options(), options or {}, key))
