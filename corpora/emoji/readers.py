"""The two kinds of package: files named by code point, and iconify's `icons.json`."""

import re
from collections.abc import Container, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from corpora.emoji.concepts import Concept, Concepts, plain
from corpora.emoji.images import icon_svg, render, small_png
from corpora.emoji.packages import members, read_json
from corpora.emoji.sources import Source


@dataclass
class Reading:
    """What became of a package's files that gave no image."""

    skin_tones: int = 0
    unmatched: list[str] = field(default_factory=list)


def read(
    source: Source, tarball: Path, concepts: Concepts, reading: Reading
) -> Iterator[tuple[Concept, bytes]]:
    """The source's images as PNG bytes, one for a concept, noting in `reading` what is left."""
    if source.folder:
        yield from _read_files(source, tarball, concepts, reading)
    else:
        yield from _read_icons(source, tarball, concepts, reading)


def _read_files(
    source: Source, tarball: Path, concepts: Concepts, reading: Reading
) -> Iterator[tuple[Concept, bytes]]:
    seen = set()
    for name, content in members(
        tarball, lambda name: name.startswith(source.folder) and name.endswith((".png", ".webp"))
    ):
        hexcode = name.removeprefix(source.folder).rsplit(".", 1)[0]
        concept = concepts.of_code_points(hexcode)
        if concept is None or concept.hexcode in source.misdrawn:
            if plain(hexcode) in concepts.skin_tones:
                reading.skin_tones += 1
            else:
                reading.unmatched.append(hexcode)
        elif concept.hexcode not in seen:
            seen.add(concept.hexcode)
            yield concept, small_png(content)


def _read_icons(
    source: Source, tarball: Path, concepts: Concepts, reading: Reading
) -> Iterator[tuple[Concept, bytes]]:
    collection = read_json(tarball, "package/icons.json")
    code_points = read_json(tarball, "package/chars.json")
    for name, concept in _name_icons(source, collection, code_points, concepts, reading).items():
        yield concept, render(icon_svg(icon_of(collection, name)))


def _name_icons(
    source: Source,
    collection: dict[str, Any],
    code_points: dict[str, str],
    concepts: Concepts,
    reading: Reading,
) -> dict[str, Concept]:
    """The concept of each icon: by code point where the package tells, by name otherwise."""
    aliases = collection.get("aliases", {})
    spoken_for = {plain(hexcode): name for hexcode, name in code_points.items()}
    found: dict[str, Concept] = {}
    taken: set[str] = set()

    def take(name: str, concept: Concept | None) -> None:
        if concept and concept.hexcode not in taken and not icon_of(collection, name).get("hidden"):
            taken.add(concept.hexcode)
            found[name] = concept

    skin_toned = {name for code, name in spoken_for.items() if code in concepts.skin_tones}
    for hexcode, name in spoken_for.items():
        take(name, concepts.of_code_points(hexcode))
    unnamed = [name for name in collection["icons"] if name not in found]
    for name in unnamed:
        take(name, concepts.of_name(name, source.glued))
    for alias, target in aliases.items():
        # An alias stands in for a name of its image that has changed. It tells nothing where
        # the image is something else by its own name, as the sport is for "cricket", unless
        # the alias also turns the image into what it says ("pointing right").
        own = found.get(target["parent"])
        if own is None or target.get("hFlip"):
            take(alias, concepts.of_name(alias, source.glued))

    shown = {aliases[name]["parent"] if name in aliases else name for name in found}
    for name in collection["icons"]:
        if name in skin_toned or is_skin_toned(name, collection["icons"]):
            reading.skin_tones += 1
        elif name not in shown:
            reading.unmatched.append(name)
    return found


def is_skin_toned(name: str, icons: Container[str]) -> bool:
    """Whether a name says that it is another icon in a skin tone ("skier-medium-dark")."""
    base = re.sub(r"-(medium|(medium-)?(light|dark))$", "", name)
    return "-skin-tone" in name or (base != name and base in icons)


def icon_of(collection: dict[str, Any], name: str) -> dict[str, Any]:
    """An icon with the collection's defaults, and an alias's changes, filled in."""
    alias = collection.get("aliases", {}).get(name, {})
    size = {key: collection[key] for key in ("width", "height") if key in collection}
    return {**size, **collection["icons"][alias.get("parent", name)], **alias}
