"""What the images show: emojibase's labels by code point, and the names artists' files go by."""

import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from corpora.emoji.mirror import mirrorable
from corpora.emoji.names import FXEMOJI, RENAMED, RENAMED_COUNTRIES
from corpora.emoji.packages import read_json

COMPONENT = 2  # emojibase's group of skin-tone swatches and loose hair


@dataclass(frozen=True)
class Concept:
    """One emoji, whoever draws it."""

    hexcode: str
    """Code points as emojibase writes them: "2764-FE0F" is not shortened to "2764"."""
    caption: str
    keywords: tuple[str, ...]
    mirrorable: bool


def plain(hexcode: str) -> str:
    """A code point sequence in one spelling: packages pad it, or keep variation selectors, or not.

    "23-fe0f-20e3" and "0023-20E3" both become "0023-20E3".
    """
    parts = hexcode.upper().split("-")
    return "-".join(part.zfill(4) for part in parts if part != "FE0F")


def slug(label: str, separator: str = "-") -> str:
    """A label as file names spell it: "flag: Côte d’Ivoire" becomes "flag-cote-divoire"."""
    spelt = label.lower().replace("&", " and ").replace(".", "").replace("'", "")
    letters = unicodedata.normalize("NFKD", spelt).encode("ascii", "ignore").decode()
    return separator.join(re.findall(r"[a-z0-9]+", letters))


class Concepts:
    """All concepts, to be looked up by code point or by name."""

    def __init__(self, entries: Iterable[dict[str, Any]], subgroups: dict[str, str]) -> None:
        self.by_hexcode: dict[str, Concept] = {}
        self.skin_tones: set[str] = set()
        """Code points of what is left out: tone swatches, and emoji in a skin tone."""
        for entry in entries:
            # The 26 regional indicators are letters waiting for a partner: they have no group.
            if entry.get("group", COMPONENT) == COMPONENT:
                self.skin_tones.add(plain(entry["hexcode"]))
                continue
            caption = entry["label"].lower()
            self.by_hexcode[plain(entry["hexcode"])] = Concept(
                hexcode=entry["hexcode"],
                caption=caption,
                keywords=tuple(tag.lower() for tag in entry.get("tags", ())),
                mirrorable=mirrorable(caption, subgroups[str(entry["subgroup"])]),
            )
            self.skin_tones.update(plain(skin["hexcode"]) for skin in entry.get("skins", ()))
        self._by_caption = {concept.caption: concept for concept in self.by_hexcode.values()}
        self._by_slug = self._spelt("-")
        self._by_glued_slug = self._spelt("")

    def of_code_points(self, hexcode: str) -> Concept | None:
        """The concept of a code point sequence, with variation selectors or without."""
        return self.by_hexcode.get(plain(hexcode))

    def of_name(self, name: str, glued: bool = False) -> Concept | None:
        """The concept whose label a file name spells, or once spelt."""
        if glued:
            if name in FXEMOJI:
                return self._by_caption.get(FXEMOJI[name] or "")
            return self._by_glued_slug.get(name)
        if name in RENAMED:
            return self._by_caption.get(RENAMED[name])
        for spelling in _spellings(name):
            if spelling in self._by_slug:
                return self._by_slug[spelling]
        return None

    def _spelt(self, separator: str) -> dict[str, Concept]:
        """Concepts by slug, without the slugs that fit several ("keycap: #" and "keycap: *")."""
        slugs = {caption: slug(caption, separator) for caption in self._by_caption}
        counts = Counter(slugs.values())
        return {
            spelling: self._by_caption[caption]
            for caption, spelling in slugs.items()
            if counts[spelling] == 1
        }


def load_concepts(tarball: Path) -> Concepts:
    """The English labels and tags of an emojibase-data tarball."""
    subgroups = read_json(tarball, "package/meta/groups.json")["subgroups"]
    return Concepts(read_json(tarball, "package/en/data.json"), subgroups)


def _spellings(name: str) -> Iterator[str]:
    """The slugs of today's labels that a name may stand for, likeliest first."""
    yield name
    country = re.match(r"flag-for-(?:flag-)?(.+)", name)
    if country:
        yield f"flag-{RENAMED_COUNTRIES.get(country[1], country[1])}"
        # "flag-for-rainbow-flag", but not "flag-for-turkey", which is not the bird.
        if "flag" in country[1]:
            yield country[1]
