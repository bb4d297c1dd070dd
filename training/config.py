"""Configs: dataclasses with a sentence a field, YAML files, dotted overrides, and a help page.

A script's schema is a dataclass whose fields are dataclasses in turn. A field's meaning is the
string literal right under it, which is also what `--help` prints.
"""

import ast
import dataclasses
import difflib
import inspect
import sys
import textwrap
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import ConfigKeyError, OmegaConfBaseException, ValidationError

from training.errors import UserError

T = TypeVar("T")
BASE = "base"  # a YAML file may name another one that it changes


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
    """Yield (dotted name, default, sentence) for every leaf field of a dataclass instance."""
    docs = field_docs(type(value))
    for field in dataclasses.fields(value):
        item = getattr(value, field.name)
        if dataclasses.is_dataclass(item):
            yield from walk_fields(item, f"{prefix}{field.name}.")
        else:
            yield prefix + field.name, item, docs.get(field.name, "")


def help_text(usage: str, defaults: Any) -> str:
    """Return the help page: how to call the script, then every field with default and meaning."""
    lines = [usage.strip(), "", "fields (name = default):"]
    for name, default, doc in walk_fields(defaults):
        lines.append(f"  {name} = {default!r}")
        lines.extend(textwrap.wrap(doc, 88, initial_indent="      ", subsequent_indent="      "))
    return "\n".join(lines)


def read_yaml(path: Path) -> DictConfig:
    """Return a YAML file as a config, merged over the file that its `base` key names, if any."""
    try:
        loaded = OmegaConf.load(path)
    except FileNotFoundError:
        raise UserError(f"config {path} does not exist") from None
    except Exception as error:
        first_line = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UserError(f"config {path} is not valid YAML: {first_line}") from None
    if not isinstance(loaded, DictConfig):
        raise UserError(f"config {path} must be a mapping of keys to values")
    base = loaded.pop(BASE, None)
    if base is None:
        return loaded
    merged = OmegaConf.merge(read_yaml(path.parent / base), loaded)
    assert isinstance(merged, DictConfig)
    return merged


def merge(schema: Any, *layers: DictConfig, source: str) -> Any:
    """Lay `layers` over a dataclass instance and return a new, type-checked instance.

    Raises `UserError` naming the key for unknown keys and wrong types, and lets each dataclass
    that has a `validate` method refuse impossible combinations.
    """
    known = [name for name, _, _ in walk_fields(schema)]
    try:
        merged = OmegaConf.merge(OmegaConf.structured(schema), *layers)
        config = OmegaConf.to_object(merged)
    except ConfigKeyError as error:
        key = str(error.full_key or error.key)
        close = difflib.get_close_matches(key, known, n=1, cutoff=0.5)
        hint = f"did you mean {close[0]}?" if close else "--help lists the keys"
        raise UserError(f"{source}: unknown key {key}; {hint}") from None
    except ValidationError as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"{source}: wrong type for {error.full_key}: {reason}") from None
    except OmegaConfBaseException as error:
        raise UserError(f"{source}: {str(error).splitlines()[0]}") from None
    validate_all(config)
    return config


def validate_all(config: Any) -> None:
    """Call `validate` on a config and on all configs inside it, the innermost first."""
    for field in dataclasses.fields(config):
        item = getattr(config, field.name)
        if dataclasses.is_dataclass(item):
            validate_all(item)
    if hasattr(config, "validate"):
        config.validate()


def parse_overrides(arguments: Sequence[str]) -> DictConfig:
    """Return dotted `key=value` arguments as a config."""
    for argument in arguments:
        if "=" not in argument or argument.startswith("-"):
            raise UserError(f"argument {argument!r} is not of the form key=value; see --help")
    # OmegaConf reads nothing as null; on a command line it is the empty string.
    quoted = [text + "''" if text.endswith("=") else text for text in arguments]
    try:
        return OmegaConf.from_dotlist(quoted)
    except Exception as error:
        raise UserError(f"overrides: {str(error).splitlines()[0]}") from None


def load_config(schema: type[T], usage: str, argv: Sequence[str] | None = None) -> T:
    """Return the config of a script's command line: `[--config FILE] [key=value ...]`.

    A schema may have a class method `defaults(written)`, for fields whose class depends on what
    the user wrote (the tokenizer's kind, say). `--help` prints every field and exits. Raises
    `UserError`.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    wants_help = [word for word in arguments if word in ("--help", "-h")]
    arguments = [word for word in arguments if word not in wants_help]
    layers, source = [], "command line"
    if "--config" in arguments:
        at = arguments.index("--config")
        if at + 1 >= len(arguments):
            raise UserError("--config needs the path of a YAML file")
        source = arguments[at + 1]
        layers.append(read_yaml(Path(source)))
        del arguments[at : at + 2]
    layers.append(parse_overrides(arguments))
    written = OmegaConf.merge(*layers)
    assert isinstance(written, DictConfig)
    make = getattr(schema, "defaults", None)
    defaults = make(written) if make else schema()
    if wants_help:
        print(help_text(usage, defaults))
        raise SystemExit(0)
    return merge(defaults, *layers, source=source)


def to_yaml(config: Any) -> str:
    """Return a config instance as YAML that `read_yaml` and `merge` read back."""
    return OmegaConf.to_yaml(OmegaConf.structured(config))
