"""The kinds of image tokenizers, by name.

ADD A TOKENIZER = one file with a config dataclass and an `ImageTokenizer`, and one line in KINDS:
where the two are. A config in a file that does not import torch lets `--help` answer at once.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Self

from dalle_base.common.errors import UserError
from dalle_base.common.free import Free
from dalle_base.common.registry import Registry
from dvae.config import DVAEConfig

if TYPE_CHECKING:
    from dvae.tokenizer import ImageTokenizer

KINDS: dict[str, tuple[Any, Any]] = {
    "dvae": ("dvae.config:DVAEConfig", "dvae.model:DiscreteVAE"),
    "vqgan": ("dvae.vqgan.config:VQGANConfig", "dvae.vqgan.model:VQGAN"),
}
PRECISIONS = ("bfloat16", "float32")


def config_class(kind: str) -> type[Any]:
    """Return the class of a kind's config. Raises `UserError` for an unknown kind."""
    configs: Registry[type[Any]] = Registry({name: line[0] for name, line in KINDS.items()})
    configs.check("tokenizer", kind)
    return configs[kind]


def tokenizer_class(kind: str) -> "type[ImageTokenizer]":
    """Return the class of a kind's tokenizer. Raises `UserError` for an unknown kind."""
    tokenizers: Registry[type[ImageTokenizer]] = Registry(
        {name: line[1] for name, line in KINDS.items()}
    )
    tokenizers.check("tokenizer", kind)
    return tokenizers[kind]


@dataclass
class SavedTokenizer:
    """What a tokenizer folder's config.yaml says."""

    tokenizer: str = "dvae"
    """Kind of tokenizer: a name in KINDS."""
    model: Any = field(default_factory=DVAEConfig)
    """Its config, of the class that KINDS has for the kind."""
    precision: Free[str] = "bfloat16"
    """How its weights are stored: bfloat16, or float32 (published weights keep theirs)."""

    def validate(self) -> None:
        """Raise `UserError` on an unknown precision."""
        if self.precision not in PRECISIONS:
            raise UserError(f"precision is {self.precision!r}; use one of {', '.join(PRECISIONS)}")

    @classmethod
    def defaults(cls, written: Mapping[str, Any]) -> Self:
        """Return the defaults of the kind that `written` names. Raises `UserError`."""
        kind = str(written.get("tokenizer", "dvae"))
        return cls(tokenizer=kind, model=config_class(kind)())
