"""Configs as dataclasses: a sentence for each field, values checked against their types.

A field's meaning is the string literal right under it, which is also what `--help` prints. A class
may have `RENAMED`, which says what became of fields that it once had, and a method `validate`,
which refuses impossible combinations. Bounds of numbers are part of their types (`bounds.py`).
"""

import ast
import copy
import dataclasses
import difflib
import functools
import inspect
import textwrap
import types
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, TypeVar, Union, get_args, get_origin, get_type_hints

from dalle_base.common.bounds import check_bounds
from dalle_base.common.errors import UserError
from dalle_base.common.shown import is_writable, short

T = TypeVar("T")
YES, NO = ("true", "yes", "on"), ("false", "no", "off")


@functools.cache
def field_docs(schema: type) -> dict[str, str]:
    """Return each field's sentence, read from the string literal under it in the source."""
    docs: dict[str, str] = {}
    for parent in reversed(schema.__mro__[:-1]):
        if not dataclasses.is_dataclass(parent):
            continue
        body = ast.parse(textwrap.dedent(inspect.getsource(parent))).body[0]
        assert isinstance(body, ast.ClassDef)
        for item, following in zip(body.body, body.body[1:], strict=False):
            if (
                isinstance(item, ast.AnnAssign)
                and isinstance(item.target, ast.Name)
                and isinstance(following, ast.Expr)
                and isinstance(following.value, ast.Constant)
            ):
                docs[item.target.id] = " ".join(str(following.value.value).split())
    return docs


def walk_fields(value: Any, prefix: str = "") -> Iterator[tuple[str, Any, str]]:
    """Yield (dotted name, value, sentence) for every leaf field of a dataclass instance."""
    docs = field_docs(type(value))
    for field in dataclasses.fields(value):
        item = getattr(value, field.name)
        if dataclasses.is_dataclass(item):
            yield from walk_fields(item, f"{prefix}{field.name}.")
        else:
            yield prefix + field.name, item, docs.get(field.name, "")


def sections(value: Any, name: str = "", doc: str = "") -> Iterator[tuple[str, Any, str]]:
    """Yield (dotted name, instance, sentence) for a config and all inside it, outermost first."""
    yield name, value, doc
    docs = field_docs(type(value))
    for field in dataclasses.fields(value):
        item = getattr(value, field.name)
        if dataclasses.is_dataclass(item):
            inner = f"{name}.{field.name}" if name else field.name
            yield from sections(item, inner, docs.get(field.name, ""))


def to_mapping(config: Any) -> dict[str, Any]:
    """Return a config as nested plain mappings."""
    return dataclasses.asdict(config)


def overlay(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """Lay one nested mapping over another: what both have as mappings is laid key by key."""
    merged = dict(below)
    for key, value in above.items():
        old = merged.get(key)
        both = isinstance(old, Mapping) and isinstance(value, Mapping)
        merged[key] = overlay(old, value) if both else value  # type: ignore[arg-type]
    return merged


def overlay_all(layers: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """Lay nested mappings over one another, the first at the bottom."""
    merged: dict[str, Any] = {}
    for layer in layers:
        merged = overlay(merged, layer)
    return merged


def rename_keys(default: Any, values: Mapping[str, Any]) -> dict[str, Any]:
    """Return values with keys that a config class once had under the names that they have now."""
    renamed = dict(values)
    for old, new in getattr(type(default), "RENAMED", {}).items():
        if old in renamed:
            value = renamed.pop(old)
            for part in reversed(new.split(".")):
                value = {part: value}
            renamed = overlay(value, renamed)
    for field in dataclasses.fields(default):
        inner = getattr(default, field.name)
        if dataclasses.is_dataclass(inner) and isinstance(renamed.get(field.name), Mapping):
            renamed[field.name] = rename_keys(inner, renamed[field.name])
    return renamed


def build(default: T, values: Mapping[str, Any], source: str, name: str = "") -> T:
    """Lay values over a dataclass instance and return a new, type-checked and valid instance.

    Args:
        default: the instance whose values count where none are given; it stays as it is.
        values: nested mappings; keys of earlier versions are understood.
        source: what an error message calls the origin of the values.
        name: the config's dotted name, where it is part of another one.

    Raises:
        UserError: an unknown key, a wrong type, a number out of its bounds (all named), or what a
            `validate` refuses.
    """
    config = lay(default, values, source)
    try:
        validate_all(config, name)
    except UserError as error:
        raise UserError(f"{source}: {error}") from None
    return config


def lay(default: T, values: Mapping[str, Any], source: str) -> T:
    """`build`, but for the values and combinations that a `validate` refuses."""
    try:
        return _build(default, rename_keys(default, values), source)
    except _UnknownKeyError as error:
        known = [name for name, _, _ in walk_fields(default)]
        close = difflib.get_close_matches(error.name[:100], known, n=1, cutoff=0.5)
        hint = f"did you mean {close[0]}?" if close else "--help lists the keys"
        written = error.name if len(error.name) < 100 else short(error.name)
        raise UserError(f"{source}: unknown key {written}; {hint}") from None


class _UnknownKeyError(Exception):
    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.name = name


def _build(default: T, values: Mapping[str, Any], source: str, prefix: str = "") -> T:
    made: dict[str, Any] = {}
    hints = get_type_hints(type(default))
    names = {field.name for field in dataclasses.fields(default)}  # type: ignore[arg-type]
    for key, value in values.items():
        name = f"{prefix}{key}"
        if key not in names:
            raise _UnknownKeyError(name)
        inner = getattr(default, key)
        if dataclasses.is_dataclass(inner) and isinstance(value, Mapping):
            made[key] = _build(inner, value, source, f"{name}.")
            continue
        if dataclasses.is_dataclass(inner):
            what = f"{short(value)} is no mapping of keys"
            raise UserError(f"{source}: wrong type for {name}: {what}")
        try:
            made[key] = convert(value, hints[key])
        except (TypeError, ValueError, OverflowError):
            wanted = getattr(hints[key], "__name__", str(hints[key]))
            if get_args(hints[key]):
                wanted = str(hints[key])
            what = f"{short(value)} is no {wanted}"
            raise UserError(f"{source}: wrong type for {name}: {what}") from None
        if not is_writable(made[key]):
            raise UserError(
                f"{source}: {name} is {short(value)}, which holds a character that no text file "
                "may have: leave it out"
            )
    return dataclasses.replace(copy.deepcopy(default), **made)  # type: ignore[type-var]


def convert(value: Any, wanted: Any) -> Any:
    """Return a value as a field's type has it. Raises `TypeError` or `ValueError`.

    Texts are read as numbers and as yes and no where the field is one; nothing becomes a text that
    is not one already but a number.
    """
    origin, arguments = get_origin(wanted), get_args(wanted)
    if wanted is Any:
        return value
    if origin in (Union, types.UnionType):
        if value is None and type(None) in arguments:
            return None
        (wanted,) = [each for each in arguments if each is not type(None)]
        return convert(value, wanted)
    if origin in (list, tuple) and isinstance(value, list | tuple):
        return origin(convert(item, arguments[0]) for item in value)
    if origin is dict and isinstance(value, Mapping):
        return {convert(k, arguments[0]): convert(v, arguments[1]) for k, v in value.items()}
    if wanted is bool:
        if isinstance(value, str) and value.lower() in YES + NO:
            return value.lower() in YES
        if isinstance(value, bool):
            return value
    elif wanted is int and not isinstance(value, bool):
        if isinstance(value, str):
            value = float(value) if "e" in value.lower() else int(value)  # 1e3 is a thousand
        if isinstance(value, int):
            return value
        if isinstance(value, float) and value.is_integer():
            return int(value)
    elif wanted is float and isinstance(value, int | float | str) and not isinstance(value, bool):
        return float(value)
    elif wanted is str and isinstance(value, str | int | float) and not isinstance(value, bool):
        return str(value)
    raise TypeError(f"{value!r} is no {wanted}")


def validate_all(config: Any, name: str = "") -> None:
    """Check the bounds of all numbers of a config, then what its `validate` refuses.

    The configs inside it come first. `name` is the config's dotted name, for messages. Raises
    `UserError`.
    """
    prefix = f"{name}." if name else ""
    for field in dataclasses.fields(config):
        item = getattr(config, field.name)
        if dataclasses.is_dataclass(item):
            validate_all(item, prefix + field.name)
    check_bounds(config, prefix)
    if hasattr(config, "validate"):
        config.validate()
