"""Sources of captioned images, by name.

ADD A SOURCE = one file in this folder and one line in SOURCES. The file has a dataclass derived
from `DataConfig` (or `PathConfig`) with the source's options, and as its class attribute `open` a
function from the config to the training and the held-out source. It need not import torch.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from dalle_base.common.checkout import in_checkout
from dalle_base.common.config import read_layers
from dalle_base.common.errors import UserError
from dalle_base.common.registry import Registry
from dalle_base.common.schema import build, overlay_all
from dalle_base.data.config import DataConfig, adapt_layers
from dalle_base.data.sources.base import Source

SOURCES: Registry[type[DataConfig]] = Registry(
    {
        "folder": "dalle_base.data.sources.folder:FolderConfig",
        "datasets": "dalle_base.data.sources.hub:DatasetsConfig",
        "webdataset": "dalle_base.data.sources.webdataset:WebDatasetConfig",
        "stream": "dalle_base.data.sources.stream:StreamConfig",
        "shapes": "dalle_base.data.sources.shapes:ShapesConfig",
        "mixture": "dalle_base.data.sources.mixture:MixtureConfig",
    }
)


def resolve_data(
    layers: Sequence[Mapping[str, Any]],
) -> tuple[DataConfig, list[dict[str, Any]]]:
    """Return the defaults of the source that config layers name, and the layers fitted to it.

    Raises:
        UserError: an unknown source, or options of another one (see `adapt_layers`).
    """
    plain = [dict(layer) for layer in layers]
    name = next((str(layer["source"]) for layer in reversed(plain) if "source" in layer), "folder")
    SOURCES.check("data.source", name)
    others = [SOURCES[other] for other in SOURCES if other != name]
    return SOURCES[name](source=name), adapt_layers(SOURCES[name], others, plain)


def read_data_config(values: Mapping[str, Any], source: str) -> DataConfig:
    """Return the `data` part of a config. Raises `UserError`; `source` names the config there."""
    return _lay([values], source)


def data_of(path: Path) -> DataConfig:
    """Return the `data` part of a config file. Raises `UserError`."""
    layers = [layer.get("data", {}) for layer in read_layers(in_checkout(path))]
    if not all(isinstance(layer, dict) for layer in layers):
        raise UserError(f"{path}: data is no mapping of keys: write data: {{source: ..., ...}}")
    return _lay(layers, str(path))


def _lay(layers: Sequence[Mapping[str, Any]], source: str) -> DataConfig:
    default, fitted = resolve_data(layers)
    return build(default, overlay_all(fitted), source, "data")


def open_sources(config: DataConfig) -> tuple[Source, Source]:
    """Return the training and the held-out source. Raises `UserError` where there is nothing."""
    return config.open()
