"""open_clip's config file, which says of weights what their shapes do not."""

import json
from pathlib import Path
from typing import Any, NamedTuple

from dalle_base.common.errors import UserError
from dual_encoder.config import DualEncoderConfig

FILE = "open_clip_config.json"
"""What open_clip puts beside its weights."""

ANY = object()
_SIZES = dict.fromkeys(("layers", "width", "image_size", "patch_size", "mlp_ratio"), ANY)
SUPPORTED: dict[str, dict[str, Any]] = {
    "model_cfg": {"embed_dim": ANY, "quick_gelu": ANY},
    "vision_cfg": {**_SIZES, "head_width": ANY, "patch_dropout": ANY, "pool_type": "tok"},
    "text_cfg": {
        **_SIZES,
        **dict.fromkeys(("heads", "context_length", "vocab_size"), ANY),
        "pool_type": "argmax",
    },
    "preprocess_cfg": {
        **dict.fromkeys(("size", "mean", "std", "fill_color"), ANY),
        "mode": "RGB",
        "interpolation": "bicubic",
        "resize_mode": "shortest",
    },
}
"""Options, and the values of them, that `DualEncoder` knows. Others are fine where they are off."""


class OpenClipConfig(NamedTuple):
    """What is needed of the file."""

    path: Path
    """The file."""
    activation: str
    """quick_gelu or gelu."""
    vision_head: int | None
    """Width of the image tower's attention heads, where it is written."""
    text_heads: int | None
    """Attention heads of the text tower, where they are written."""
    mean: list[float] | None
    """Mean of the pixels' channels, where it is written."""
    std: list[float] | None
    """Their standard deviation, where it is written."""
    sizes: dict[str, Any]
    """The sizes of the model that it describes, by the names of `_sizes`."""

    def check(self, config: DualEncoderConfig) -> None:
        """Raise `UserError` unless a model of these sizes is the one that the file describes."""
        own = {
            "model_cfg.embed_dim": config.embed_dim,
            "vision_cfg.width": config.vision.width,
            "vision_cfg.layers": config.vision.layers,
            "vision_cfg.patch_size": config.patch_size,
            "vision_cfg.image_size": config.image_size,
            "text_cfg.width": config.text.width,
            "text_cfg.layers": config.text.layers,
            "text_cfg.context_length": config.text_length,
            "text_cfg.vocab_size": config.vocab_size,
        }
        for name, size in own.items():
            if self.sizes.get(name, size) not in (size, [size, size]):
                raise UserError(
                    f"{self.path} describes another model than the weights beside it: {name} is "
                    f"{self.sizes[name]}, theirs is {size}; put the right one there, or none"
                )


def read_open_clip_config(path: Path) -> OpenClipConfig | None:
    """Return what the file says, None where there is none.

    Raises `UserError` if it asks for anything that `DualEncoder` is not.
    """
    if not path.exists():
        return None
    try:
        stored = json.loads(path.read_text(encoding="utf-8"))
        model = stored["model_cfg"]
        parts: dict[str, dict[str, Any]] = {
            "model_cfg": {k: v for k, v in model.items() if k not in ("vision_cfg", "text_cfg")},
            "vision_cfg": dict(model["vision_cfg"]),
            "text_cfg": dict(model["text_cfg"]),
            "preprocess_cfg": dict(stored.get("preprocess_cfg") or {}),
        }
    except (OSError, ValueError, TypeError, AttributeError, LookupError) as error:
        raise UserError(f"{path} is no config of open_clip ({error}); download it again") from None
    for part, values in parts.items():
        for name, value in values.items():
            right = SUPPORTED[part].get(name)
            if value is not None and value is not False and right is not ANY and value != right:
                raise UserError(
                    f"{path}: {part}.{name} is {json.dumps(value)}, which this model cannot do; "
                    "use other weights"
                )
    vision, text, images = (parts[name] for name in ("vision_cfg", "text_cfg", "preprocess_cfg"))
    for name, number in (("head_width", vision.get("head_width")), ("heads", text.get("heads"))):
        if number is not None and (type(number) is not int or number < 1):
            raise UserError(f"{path}: {name} is {json.dumps(number)}, not a number of 1 or more")
    for name in ("mean", "std"):
        numbers = images.get(name)
        if numbers is not None and not (
            isinstance(numbers, list) and all(type(number) in (int, float) for number in numbers)
        ):
            raise UserError(f"{path}: {name} is {json.dumps(numbers)}, not three numbers")
    return OpenClipConfig(
        path,
        "quick_gelu" if parts["model_cfg"].get("quick_gelu") else "gelu",
        vision.get("head_width"),
        text.get("heads"),
        images.get("mean"),
        images.get("std"),
        {f"{part}.{name}": value for part in parts for name, value in parts[part].items()},
    )
