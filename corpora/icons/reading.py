"""The package read set by set: first the names of its icons, then the drawings of those chosen."""

import json
import re
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from corpora.emoji.packages import members, read_json
from corpora.emoji.readers import is_skin_toned
from corpora.icons.names import caption_of, is_of_interface, is_sign, stem, styles_of
from corpora.icons.nouns import Lexicon
from corpora.icons.sets import COLOURED, PACKAGE, PERMISSIVE, SILHOUETTES, IconSet
from dalle_base.common.errors import UserError

FOLDER = "package/json/"
LEAST_SHARE = 0.9
"""A set with fewer of the icons that the table expects is not the pinned one."""
LEAST_SETS = 3
"""A silhouette's concept is drawn by so many sets, so that its name is no whim of one."""
SIGNS_OF_A_SET = 40
"""So many arrows, chevrons and the like are enough."""
_SIZED = re.compile(r"(?P<base>.+)-(?P<size>\d\d)(-(?P<style>[a-z]+))?")


@dataclass(frozen=True)
class Icon:
    """An icon that the corpus may take."""

    set: IconSet
    name: str
    concept: str
    """The words for what it shows."""
    keywords: tuple[str, ...] = ()
    """Other names that the set gives it."""


@dataclass
class Survey:
    """What there is to draw."""

    icons: dict[str, list[Icon]] = field(default_factory=dict)
    """By the sets' prefixes."""
    about: dict[str, dict[str, str]] = field(default_factory=dict)
    """Author, licence and address of each set, as the package has them."""
    unnamed: dict[str, int] = field(default_factory=dict)
    """How many icons of each set were left out for their names."""


def check_version(tarball: Path) -> None:
    """Raise `UserError` if a tarball holds another package, or another version of it."""
    about = read_json(tarball, "package/package.json")
    found = f"{about.get('name')}@{about.get('version')}"
    if found != PACKAGE:
        raise UserError(f"{tarball} holds {found}, not {PACKAGE}: delete it and rerun")


def read_sets(
    tarball: Path, sets: Mapping[str, IconSet]
) -> Iterator[tuple[IconSet, dict[str, Any]]]:
    """The sets of a tarball that are in the table, one after the other, as iconify writes them."""
    for name, content in members(
        tarball, lambda name: name.startswith(FOLDER) and _prefix(name) in sets
    ):
        yield sets[_prefix(name)], json.loads(content)


def survey(
    tarball: Path,
    sets: Mapping[str, IconSet],
    lexicon: Lexicon,
    seen: Callable[[str], object] = lambda prefix: None,
) -> Survey:
    """Go through the names of all icons and choose what to draw.

    Args:
        tarball: the package.
        sets: the sets to read, by prefix.
        lexicon: which names are English, and which of them things.
        seen: is called with the prefix of each set that was read.

    Raises:
        UserError: a set is missing, much smaller than it should be, or under another licence.
    """
    found = Survey()
    for each, collection in read_sets(tarball, sets):
        _check(each, collection)
        found.about[each.prefix] = _about(collection["info"])
        names = [name for name in collection["icons"] if _is_wanted(each, name, collection)]
        icons = list(_named(each, names, collection))
        kept = [icon for icon in icons if _is_kept(icon, lexicon)]
        found.icons[each.prefix] = _fewer_signs(kept) if each.part == COLOURED else kept
        found.unnamed[each.prefix] = len(names) - len(found.icons[each.prefix])
        seen(each.prefix)
    for prefix in sets:
        if prefix not in found.icons:
            raise UserError(f"{tarball} holds no set {prefix}: delete it and rerun")
    _drop_rare(found)
    return found


def _prefix(member: str) -> str:
    return member.removeprefix(FOLDER).removesuffix(".json")


def _check(each: IconSet, collection: dict[str, Any]) -> None:
    icons, licence = collection["icons"], collection["info"]["license"].get("spdx")
    if len(icons) < LEAST_SHARE * each.icons:
        raise UserError(
            f"{PACKAGE} gave {len(icons)} icons of the set {each.prefix} where {each.icons} were "
            "expected: delete its tarball and rerun"
        )
    if licence not in PERMISSIVE:
        raise UserError(
            f"{PACKAGE} has the set {each.prefix} under {licence}: take it off the list"
        )


def _about(info: dict[str, Any]) -> dict[str, str]:
    author = info.get("author", {})
    return {
        "title": info.get("name", ""),
        "author": author.get("name", ""),
        "licence": info["license"]["spdx"],
        "url": author.get("url", ""),
    }


def _is_wanted(each: IconSet, name: str, collection: dict[str, Any]) -> bool:
    icons = collection["icons"]
    hidden = icons[name].get("hidden") or (each.left_out and name.endswith(each.left_out))
    return not hidden and not is_skin_toned(name, icons)


def _named(each: IconSet, names: list[str], collection: dict[str, Any]) -> Iterator[Icon]:
    """The icons of a set, of several sizes the largest."""
    prefixes, suffixes = styles_of(collection)

    def concept(name: str) -> str:
        stemmed = name if each.plain_names else stem(name, prefixes, suffixes)
        return caption_of(stemmed, each.prefix)

    aliases: dict[str, list[str]] = defaultdict(list)
    for alias, target in collection.get("aliases", {}).items():
        if not {"hFlip", "vFlip", "rotate"} & set(target):
            aliases[target["parent"]].append(concept(alias))
    for name in _largest(names, collection):
        own = concept(name)
        other = dict.fromkeys(alias for alias in aliases[name] if alias != own)
        yield Icon(each, name, own, tuple(other))


def _largest(names: list[str], collection: dict[str, Any]) -> list[str]:
    """Of icons in several sizes ("home-16", "home-24-filled") the largest of each style."""
    sizes: dict[tuple[str, str], tuple[int, str]] = {}
    for name in names:
        match = _SIZED.fullmatch(name)
        height = collection["icons"][name].get("height", collection.get("height", 16))
        if match and int(match["size"]) == height:
            key = match["base"], match["style"] or ""
            sizes[key] = max(sizes.get(key, (0, "")), (height, name))
        else:
            sizes[name, "as it is"] = height, name
    return [name for _, name in sizes.values()]


def _is_kept(icon: Icon, lexicon: Lexicon) -> bool:
    if icon.set.part == COLOURED:
        is_logo = "logo" in icon.concept.split()
        return not is_logo and lexicon.is_english(icon.concept.replace(":", ""))
    return not is_of_interface(icon.concept) and lexicon.is_concrete(icon.concept)


def _fewer_signs(icons: list[Icon]) -> list[Icon]:
    """Icons of a set without most of its arrows, chevrons and the like."""
    signs, kept = 0, []
    for icon in icons:
        signs += is_sign(icon.concept)
        if not is_sign(icon.concept) or signs <= SIGNS_OF_A_SET:
            kept.append(icon)
    return kept


def _drop_rare(found: Survey) -> None:
    """Leave out silhouettes of what fewer than `LEAST_SETS` sets draw."""
    drawn_by: dict[str, set[str]] = defaultdict(set)
    for prefix, icons in found.icons.items():
        for icon in icons:
            drawn_by[icon.concept].add(prefix)
    for prefix, icons in found.icons.items():
        if icons and icons[0].set.part == SILHOUETTES:
            found.icons[prefix] = [i for i in icons if len(drawn_by[i.concept]) >= LEAST_SETS]
