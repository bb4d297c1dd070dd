"""A script's config: a YAML file, then `key=value` from the command line; and its help page."""

import contextlib
import dataclasses
import sys
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar, get_type_hints

import yaml

from dalle_base.common.bounds import range_text, typed_fields
from dalle_base.common.checkout import in_checkout
from dalle_base.common.errors import UserError
from dalle_base.common.schema import (
    build,
    field_docs,
    lay,
    overlay,
    overlay_all,
    rename_keys,
    sections,
    to_mapping,
)
from dalle_base.common.shown import short
from dalle_base.common.yaml_text import MOST_LEVELS, dump_yaml, parse_yaml

T = TypeVar("T")
Layer = dict[str, Any]
COMMAND_LINE = "command line"
BASE = "base"  # a YAML file may name another one that it changes
MOST_BYTES = 2**18
"""Of a YAML file."""


def read_yaml(path: Path) -> Layer:
    """Return a YAML file as one mapping, laid over the file that its `base` key names, if any.

    Raises `UserError` as `read_layers` does.
    """
    return overlay_all(read_layers(path))


def read_layers(path: Path, above: tuple[Path, ...] = ()) -> list[Layer]:
    """Return a YAML file as a mapping, after those of the files that its `base` key leads to.

    `above` are the files that led to this one.

    Raises:
        UserError: no such file, not valid YAML, no mapping, or files that are one another's base.
    """
    loaded = _read_file(path)
    base = loaded.pop(BASE, None)
    if base is None:
        return [loaded]
    if not isinstance(base, str):
        raise UserError(f"config {path}: {BASE} is {short(base)}; name a YAML file")
    if "\0" in base:
        raise UserError(f"config {path}: {BASE} is {short(base)}, which no file is called")
    below = path.parent / base
    if below.resolve() in (each.resolve() for each in (*above, path)):
        raise UserError(f"config {path}: {BASE} leads back to {below}; name another file")
    return [*read_layers(below, (*above, path)), loaded]


def _read_file(path: Path) -> Layer:
    """Return the mapping in a file. Raises `UserError`."""
    try:
        if not path.exists():
            raise UserError(f"config {path} does not exist")
        if not path.is_file():
            raise UserError(f"config {path} is a folder or a device: name a YAML file")
        if path.stat().st_size > MOST_BYTES:
            raise UserError(f"config {path} is larger than {MOST_BYTES:,} bytes: is it YAML?")
        loaded = parse_yaml(path.read_bytes())
    except OSError as error:
        raise UserError(f"config {path} cannot be read: {error.strerror}") from None
    except yaml.YAMLError as error:
        raise UserError(f"config {path} is not valid YAML: {error}") from None
    if loaded is None:
        return {}
    if not isinstance(loaded, dict):
        raise UserError(f"config {path} must be a mapping of keys to values")
    return loaded


def to_yaml(config: Any) -> str:
    """Return a config instance as YAML that `read_yaml` and `build` read back."""
    return dump_yaml(to_mapping(config))


class _Text(str):
    """A value from the command line whose type is not yet known."""


def parse_overrides(arguments: Sequence[str], default: Any = None) -> Layer:
    """Return dotted `key=value` arguments as a layer of texts. Raises `UserError`.

    What `default` has as a section may be given whole, as a YAML mapping: `run={updates: 7}`.
    """
    layer: Layer = {}
    for argument in arguments:
        key, separator, value = argument.partition("=")
        parts = key.split(".")
        if not separator or argument.startswith("-") or not all(parts):
            raise UserError(f"argument {short(argument)} is not of the form key=value; see --help")
        if len(parts) > MOST_LEVELS:
            raise UserError(f"{COMMAND_LINE}: unknown key {short(key)}; --help lists the keys")
        nested: Any = _Text(value)
        section = default
        for part in parts:
            section = _field(section, part)
        if dataclasses.is_dataclass(section):
            with contextlib.suppress(yaml.YAMLError):
                nested = parse_yaml(value)
        for part in reversed(parts):
            nested = {part: nested}
        layer = overlay(layer, nested)
    return layer


def _field(config: Any, name: object) -> Any:
    """Return the value of a dataclass instance's field; None where there is no such thing."""
    known = dataclasses.is_dataclass(config) and not isinstance(config, type)
    return getattr(config, str(name)) if known and name in typed_fields(type(config)) else None


def read_texts(layer: Mapping[str, Any], default: Any) -> Layer:
    """Return a layer whose texts from the command line are read as their fields' types say.

    Where a field is a text the value is taken literally, `~` for the home folder alone excepted;
    lists and mappings are written as in YAML.
    """
    known = dataclasses.is_dataclass(default)
    hints = get_type_hints(type(default)) if known else {}
    read: Layer = {}
    for key, value in layer.items():
        inner = _field(default, key)
        if isinstance(value, Mapping):
            read[key] = read_texts(value, inner)
        elif isinstance(value, _Text) and hints.get(key) is str:
            home = value == "~" or value.startswith("~/")
            read[key] = str(Path(value).expanduser()) if home else str(value)
        elif isinstance(value, _Text) and hints.get(key) not in (int, float, bool):
            try:
                read[key] = parse_yaml(value) if value else str(value)
            except yaml.YAMLError:
                read[key] = str(value)
        else:
            read[key] = str(value) if isinstance(value, _Text) else value
    return read


def resolve(schema: type[T], layers: Sequence[Layer]) -> tuple[T, list[Layer]]:
    """Return a schema's defaults for what the layers choose, and the layers fitted to them.

    A schema may have a class method `defaults(written)`, for fields whose class depends on what
    the user wrote (the tokenizer's kind, say), and a field's metadata a function `resolve` that
    does the like for the layers of that field. `from_layers` first asks its class method
    `prepare(layers)`, if it has one, for further layers (presets, say).
    """
    make = getattr(schema, "defaults", None)
    default = make(overlay_all(layers)) if make else schema()
    fitted = [rename_keys(default, layer) for layer in layers]
    for field in dataclasses.fields(default):  # type: ignore[arg-type]
        if "resolve" in field.metadata:
            parts = [
                part if isinstance(part := layer.get(field.name), dict) else {} for layer in fitted
            ]
            chosen, parts = field.metadata["resolve"](parts)
            setattr(default, field.name, chosen)
            for layer, part in zip(fitted, parts, strict=True):
                if isinstance(layer.get(field.name), dict):
                    layer[field.name] = part
    return default, fitted


def from_layers(schema: type[T], layers: Sequence[Layer], source: str) -> T:
    """Return the config that layers make of a schema.

    Raises `UserError`, which names `source`, or the command line where the mistake is there.
    """
    prepare = getattr(schema, "prepare", None)
    default, fitted = resolve(schema, prepare(layers) if prepare else layers)
    values: Layer = {}
    for layer in fitted:
        read = read_texts(layer, default)
        if has_texts(layer):
            lay(default, read, COMMAND_LINE)
        values = overlay(values, read)
    return build(default, values, source)


def has_texts(layer: Mapping[str, Any]) -> bool:
    """Whether a layer is one of `parse_overrides`."""
    return any(
        isinstance(value, _Text) or (isinstance(value, Mapping) and has_texts(value))
        for value in layer.values()
    )


def load_config(schema: type[T], usage: str, argv: Sequence[str] | None = None) -> T:
    """Return the config of a script's command line: `[--config FILE] [key=value ...]`.

    `--help` prints every field and exits, with what a named file sets. Raises `UserError`.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    wants_help = [word for word in arguments if word in ("--help", "-h")]
    arguments = [word for word in arguments if word not in wants_help]
    layers, source = [], COMMAND_LINE
    if "--config" in arguments:
        at = arguments.index("--config")
        if at + 1 >= len(arguments):
            raise UserError("--config needs the path of a YAML file")
        source = arguments[at + 1]
        layers += read_layers(in_checkout(source))
        del arguments[at : at + 2]
    layers.append(parse_overrides(arguments, schema()))
    if wants_help:
        print(help_text(schema, usage, layers, source))
        raise SystemExit(0)
    return from_layers(schema, layers, source)


def help_text(schema: type[Any], usage: str, layers: Sequence[Layer] = (), source: str = "") -> str:
    """Return the help page: how to call the script, then the fields, a group for each section.

    A field that the layers set shows its value there, and the default behind it.
    """
    default, _ = resolve(schema, layers)
    config = from_layers(schema, layers, source) if any(layers) else default
    lines = [usage.strip()]
    if any(layers):
        lines += ["", f"Values come from {source}; a default that differs follows in brackets."]
    for (name, section, about), (_, plain, _) in zip(
        sections(config), sections(default), strict=True
    ):
        docs = field_docs(type(section))
        lines += ["", f"{name}: {about}" if about else name or "general:", ""]
        for field in dataclasses.fields(section):
            value, usual = getattr(section, field.name), getattr(plain, field.name)
            if dataclasses.is_dataclass(value):
                continue
            shown = f"  {name}.{field.name}" if name else f"  {field.name}"
            lines.append(f"{shown} = {_written(value)}" + _instead_of(value, usual))
            text = docs.get(field.name, "")
            if bounds := range_text(typed_fields(type(section))[field.name]):
                text += f" ({bounds})"
            lines += textwrap.wrap(text, 88, initial_indent=" " * 6, subsequent_indent=" " * 6)
    return "\n".join(lines)


def _written(value: Any) -> str:
    """Return a value as it is written on a command line."""
    if isinstance(value, str):
        return value or '""'
    return dump_yaml(value, default_flow_style=True, width=1000).removesuffix("...\n").strip()


def _instead_of(value: Any, usual: Any) -> str:
    return "" if value == usual else f"   (default: {_written(usual)})"
