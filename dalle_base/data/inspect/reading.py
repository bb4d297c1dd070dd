"""A training script's config as far as it concerns the data. Needs no torch."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dalle_base.common.checkout import in_checkout
from dalle_base.common.config import load_config, read_layers, read_yaml, resolve
from dalle_base.common.errors import UserError
from dalle_base.common.model_folders import CONFIG
from dalle_base.common.registry import Registry
from dalle_base.common.schema import lay, overlay_all
from dalle_base.data.config import DataConfig

# Places and not imports: the scripts stand above this room, which needs nothing of them but the
# meaning of their configs' keys.
SCHEMAS: Registry[type[Any]] = Registry(
    {
        "dvae": "train_dvae:TrainDVAE",
        "dalle": "train_dalle:TrainDALLE",
        "clip": "train_clip:TrainDualEncoder",
    }
)
"""The configs of the scripts that train, by the folders of `configs`."""
ENDS = 2
"""Text positions of a dual encoder that a start and an end take."""
UNKNOWN_SIZE = 64
"""Side of images on the sheet where the tokenizer, which decides it, is not there yet."""


@dataclass
class Reading:
    """What a run reads."""

    script: str
    """The script, by the name of its folder of configs."""
    data: DataConfig
    """Its data."""
    image_size: int
    """Side of its images; 0 where the tokenizer that decides it is not there yet."""
    text_length: int
    """Tokens of a caption that it reads; 0: it reads none."""
    vocabulary: int
    """Most tokens of a text encoding learned from the captions."""
    text_file: Path | None
    """The text encoding that it begins with, if there is one already."""
    length_key: str = "model.text_length"
    """Setting for the length of text."""
    length_extra: int = 0
    """Positions that this setting counts besides."""


def read_run(script: str | None, config: str | None, overrides: Sequence[str]) -> Reading:
    """Return what a run with a config and overrides reads.

    Args:
        script: whose config it is; None: as its folder or its keys tell.
        config: a YAML file, if any.
        overrides: `key=value`.

    Raises:
        UserError: as `load_config`, or where the script cannot be told.
    """
    name = script or _script_of(config)
    words = [*(("--config", config) if config else ()), *overrides]
    read: Any = load_config(SCHEMAS[name], "", words)
    if name == "dvae":
        return Reading(name, read.data, read.model.image_size, 0, 0, None)
    text_file = _text_file(read.init, read.run.out)
    if name == "dalle":
        size = _tokenizer_size(read.tokenizer)
        length, vocabulary = read.model.text_length, read.model.text_vocab
        return Reading(name, read.data, size, length, vocabulary, text_file)
    length, vocabulary = read.model.text_length - ENDS, read.model.vocab_size - ENDS
    return Reading(
        name, read.data, read.model.image_size, length, vocabulary, text_file, length_extra=ENDS
    )


def _script_of(config: str | None) -> str:
    if config is None:
        raise UserError("name a config, or say whose data it is with --script dvae, dalle or clip")
    path = in_checkout(config)
    folder = path.resolve().parent.name
    if folder in SCHEMAS:
        return folder
    layers = read_layers(path)
    fits = [name for name in SCHEMAS if _accepts(name, layers)]
    if len(fits) == 1:
        return fits[0]
    if not fits:
        raise UserError(f"{config} is no config of a script that trains; say --script to see why")
    if not {"model", "codes", "loss", "tokenizer"} & overlay_all(layers).keys():
        return "dalle" if "text" in overlay_all(layers) else fits[0]
    raise UserError(f"{config} may be a config of {' or '.join(fits)}: say which with --script")


def _accepts(name: str, layers: Sequence[dict[str, Any]]) -> bool:
    """Whether a script's config has all the keys of some layers, whatever it has against values."""
    schema = SCHEMAS[name]
    try:
        default, fitted = resolve(schema, schema.prepare(layers))
        lay(default, overlay_all(fitted), name)
    except UserError:
        return False
    return True


def _text_file(init: str, out: str) -> Path | None:
    """Return the text encoding that a run takes, if there is one: its own, or that of `init`."""
    places = [in_checkout(init)] if init else [Path(out)]
    return next((place / "text.json" for place in places if (place / "text.json").is_file()), None)


def _tokenizer_size(folder: str) -> int:
    path = in_checkout(folder) / CONFIG
    if not path.is_file():
        return 0
    model = read_yaml(path).get("model")
    size = model.get("image_size") if isinstance(model, dict) else None
    return size if isinstance(size, int) and size > 0 else 0
