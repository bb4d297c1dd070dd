"""YAML as configs use it: texts, numbers, yes and no, lists and mappings, read and written."""

import math
import re
from collections.abc import Mapping
from typing import Any

import yaml
from yaml.composer import ComposerError
from yaml.constructor import ConstructorError

from dalle_base.common.shown import short

MOST_VALUES = 100_000
"""Values in a text, those that aliases repeat included."""
MOST_LEVELS = 50
"""Lists and mappings inside one another."""
TOO_DEEP = f"lists and mappings are nested more than {MOST_LEVELS} deep"
_PLAIN = ("null", "bool", "int", "float", "str", "seq", "map")


class Loader(yaml.SafeLoader):
    """YAML 1.2's plain types: `no`, `yes`, `on`, dates and `12:30` are texts, `2e-3` is a number.

    A key that is written twice is an error. Of the tags only those of plain types are known.
    """

    levels = 0

    def compose_node(self, parent: Any, index: Any) -> Any:
        self.levels += 1
        if self.levels > MOST_LEVELS:  # before Python's stack ends, which takes seconds
            raise ComposerError(None, None, TOO_DEEP, self.peek_event().start_mark)
        node = super().compose_node(parent, index)
        self.levels -= 1
        return node

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        if isinstance(node, yaml.MappingNode):
            written: set[tuple[str, str]] = set()
            for key, _ in node.value:
                name = (key.tag, key.value) if isinstance(key, yaml.ScalarNode) else None
                if name in written:
                    raise ConstructorError(
                        None, None, f"the key {short(key.value)} is written twice", key.start_mark
                    )
                if name:
                    written.add(name)
        return super().construct_mapping(node, deep)

    def flatten_mapping(self, node: Any) -> None:
        super().flatten_mapping(node)
        last: dict[Any, Any] = {}
        for key, value in node.value:  # a key of a merged mapping gives way to the own one
            last[(key.tag, key.value) if isinstance(key, yaml.ScalarNode) else id(key)] = key, value
        node.value = list(last.values())

    def refuse_tag(self, node: Any) -> None:
        what = f"{short(node.tag)} is no tag that a config may have"
        raise ConstructorError(None, None, what, node.start_mark)

    def construct_whole(self, node: Any) -> int:
        text = self.construct_scalar(node).replace("_", "").lower()
        try:
            return int(text, 16) if "0x" in text else int(text)
        except ValueError:
            what = f"{short(node.value)} is no whole number"
            raise ConstructorError(None, None, what, node.start_mark) from None


Loader.yaml_constructors = {
    tag: make
    for tag, make in yaml.SafeLoader.yaml_constructors.items()
    if tag and tag.rpartition(":")[2] in _PLAIN
}
Loader.add_constructor("tag:yaml.org,2002:int", Loader.construct_whole)
Loader.add_constructor(None, Loader.refuse_tag)  # type: ignore[arg-type]  # of any other
_FLOAT = (
    "tag:yaml.org,2002:float",
    re.compile(
        r"^[-+]?(?:(?:\.[0-9]+|[0-9]+\.[0-9]*)(?:[eE][-+]?[0-9]+)?|[0-9]+[eE][-+]?[0-9]+"
        r"|\.(?:inf|Inf|INF))$|^\.(?:nan|NaN|NAN)$"
    ),
    list("-+0123456789."),
)
Loader.yaml_implicit_resolvers = {
    first: [
        (tag, regexp)
        for tag, regexp in resolvers
        if tag.rpartition(":")[2] not in ("bool", "float", "int", "timestamp")
    ]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
Loader.add_implicit_resolver(
    "tag:yaml.org,2002:bool", re.compile(r"^(?:true|True|TRUE|false|False|FALSE)$"), list("tTfF")
)
Loader.add_implicit_resolver(*_FLOAT)
Loader.add_implicit_resolver(
    "tag:yaml.org,2002:int",
    re.compile(r"^[-+]?(?:[0-9][0-9_]*|0x[0-9a-fA-F_]*[0-9a-fA-F])$"),
    list("-+0123456789"),
)


class Dumper(yaml.SafeDumper):
    """Puts in quotes whatever text some reader, `Loader` included, would take for another type."""


Dumper.add_implicit_resolver(*_FLOAT)


def parse_yaml(text: str | bytes) -> Any:
    """Return what a YAML text says; bytes may be UTF-8 or UTF-16, with a byte order mark or none.

    Raises `yaml.YAMLError`, whose text is one line, for all that is no config's YAML: also values
    that hold themselves, or that aliases repeat beyond measure.
    """
    try:
        value = yaml.load(text, Loader)
        _count(value, 0, 0)
    except RecursionError:
        raise yaml.YAMLError(TOO_DEEP) from None
    except Exception as error:  # PyYAML lets a KeyError through, for one: of `!!bool maybe`
        raise yaml.YAMLError(_reason(error)) from None
    return value


def dump_yaml(value: Any, **options: Any) -> str:
    """Return plain values as YAML that `parse_yaml` reads back."""
    return yaml.dump(value, Dumper=Dumper, sort_keys=False, allow_unicode=True, **options)


def _count(value: Any, level: int, seen: int) -> int:
    """Return `seen` and as many as there are values; the same value counts each time it comes."""
    if level > MOST_LEVELS:
        raise ValueError(TOO_DEEP)
    if seen > MOST_VALUES:
        raise ValueError(f"aliases and lists make more than {MOST_VALUES:,} values")
    seen += 1
    if isinstance(value, Mapping):
        for key, item in value.items():
            if isinstance(key, float) and math.isnan(key):
                raise ValueError("a key is not a number")
            seen = _count(item, level + 1, seen)
    elif isinstance(value, list):
        for item in value:
            seen = _count(item, level + 1, seen)
    return seen


def _reason(error: Exception) -> str:
    """Return in a line what is wrong, and where."""
    if isinstance(error, yaml.MarkedYAMLError):
        what = ", ".join(part for part in (error.context, error.problem) if part)
        mark = error.problem_mark or error.context_mark
        where = f" (line {mark.line + 1}, column {mark.column + 1})" if mark else ""
        return " ".join(what.split()) + where
    if isinstance(error, yaml.reader.ReaderError):
        return f"character {error.position + 1} is none of a text: {error.reason}"
    if isinstance(error, KeyError):
        return f"{error} cannot be read as its tag says"
    return (str(error).splitlines() or [type(error).__name__])[0]
