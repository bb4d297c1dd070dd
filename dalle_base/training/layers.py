"""What a training script's config takes from elsewhere, as layers below what is written.

From the bottom: a preset of sizes (`size`), the sizes of the model that a run starts from (`init`),
then config files and the command line. Reads no weights, so `--help` shows what comes of it.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from dalle_base.common.checkout import CHECKOUT
from dalle_base.common.config import read_yaml
from dalle_base.common.errors import UserError
from dalle_base.common.hub import locate
from dalle_base.common.model_folders import CONFIG
from dalle_base.common.schema import overlay_all
from dalle_base.training.shares import resolve_shares

SIZES = CHECKOUT / "configs/sizes.yaml"
"""The presets: a section for each kind of model, in it one for each size."""

Layer = Mapping[str, Any]


def complete_layers(
    schema: type[Any], kind: str, layers: Sequence[Layer], start: Mapping[str, Any]
) -> list[dict[str, Any]]:
    """Return config layers with all that they refer to, and shares of the run as numbers.

    Args:
        schema: of the script's config.
        kind: of the model: a section of the presets, or what has none.
        layers: as written, the first laid down first.
        start: layer with the sizes of the model that `init` names; {} where there is none.

    Raises:
        UserError: an unknown size, or a kind of model that has no presets.
    """
    size = overlay_all(layers).get("size") or ""
    below = [preset(kind, size)] if size else []
    return resolve_shares([*below, start, *layers], schema().run.updates)


def preset(kind: str, size: Any) -> Layer:
    """Return the layer of a size. Raises `UserError` as `complete_layers` does."""
    presets = read_yaml(SIZES)
    if kind not in presets:
        raise UserError(f"size is {size!r}, but there are none of {kind}: leave it out (size=)")
    sizes = presets[kind]
    if not isinstance(size, str) or size not in sizes:
        raise UserError(f"size is {size!r}; use one of {', '.join(sizes)}")
    return sizes[size]


def written(layers: Sequence[Layer], key: str) -> Any:
    """Return what layers have under a dotted key; None where they have nothing."""
    value: Any = overlay_all(layers)
    for part in key.split("."):
        value = value.get(part) if isinstance(value, Mapping) else None
    return value


def stored(layers: Sequence[Layer]) -> dict[str, Any]:
    """Return the config of the model's folder that `init` names; {} where there is none.

    What is wrong with the folder is said when its weights are read.
    """
    init = written(layers, "init")
    if not isinstance(init, str) or not init:
        return {}
    try:
        path = locate(init) / CONFIG
        return read_yaml(path) if path.is_file() else {}
    except (UserError, OSError, ValueError):
        return {}


def without(layers: Sequence[Layer], section: str, names: Sequence[str]) -> list[Layer]:
    """Return layers without some keys of a section."""
    kept: list[Layer] = []
    for layer in layers:
        part = layer.get(section)
        if isinstance(part, Mapping):
            part = {key: value for key, value in part.items() if key not in names}
            layer = {**layer, section: part}
        kept.append(layer)
    return kept


def only(values: Any, names: Sequence[str]) -> dict[str, Any]:
    """Return those entries of a mapping that have one of the names; none where it is no mapping."""
    known = values if isinstance(values, Mapping) else {}
    return {name: known[name] for name in names if name in known}
