"""Icons' names as captions: styles, sizes and numbers taken off, categories and slips mended."""

import re
from collections.abc import Iterable, Mapping

from corpora.icons.words import words

# What a name says of its style, whichever set it is in. "light" is none: it may be a lamp's.
_STYLES = words(
    """
    outline outlined filled fill linear bold duotone twotone solid sharp rounded regular thin
    remix duo alt negative variant 24px 16px mini small large expressive baseline o
    """
)
_COUNTED = words("one two three four five six seven eight nine ten")
_NUMBERED = re.compile(r"\d+(px)?|v\d+")
_GLUED_NUMBER = re.compile(r"(?<=[a-z]{3})\d{1,2}$")

_SLIPS = """
    ubmrella=umbrella labtop=laptop reciept=receipt databse=database disapointed=disappointed
    trinangle=triangle clound=cloud seach=search forbiden=forbidden foward=forward
    strucutre=structure icecream=ice_cream yinyang=yin_yang womans=woman's mans=man's
    bigben=big_ben magicmouse=mouse airconditioner=air_conditioner eyeglasses=glasses
    tshirt=t-shirt wifi=wi-fi email=e-mail oclock=o'clock piata=pinata womens=women's mens=men's
    clapperboard=clapper_board dices=dice mic=microphone bike=bicycle cogwheel=cog colour=color
"""
SPELLING = {
    slip: meant.replace("_", " ") for slip, meant in (pair.split("=") for pair in _SLIPS.split())
}
"""Slips and run-together words, and what is meant."""

# Signs drawn on or beside a thing, frames around it, and what an interface does.
MODIFIERS = words(
    """
    off slash plus minus add added remove removed delete deleted check checked checkmark tick x
    xmark cross times cancel cancelled close edit alert alerted warning warn question
    exclamation info information help disable disabled enable on in out up down left right top
    bottom forward backward back next previous first last search find settings setting sync
    refresh reload upload download share export import badge badged dot dots loop rtl ltr start
    end begin half full empty auto more less done error failed ok no not all none multiple
    double triple single small big large medium vertical horizontal diagonal center centre
    middle corner inside outside inner outer side front circle circled square squared rectangle
    rounded round octagon hexagon box frame outline arrow arrows chevron chevrons caret angle
    align alignment sort toggle expand collapse move drag select selection indent zoom crop
    rotate flip undo redo replay repeat shuffle rewind skip play pause stop resume swap switch
    exchange transfer fullscreen minimize maximize merge split sign mark symbol logo wordmark
    layout layer layers grid column columns row rows list border cell text paragraph heading
    font bullet format code function cursor pointer click swipe gesture tap menu bar bars button
    tab page view panel sidebar navigation link unlink component module
    """
)
"""Words that say something of an interface, and not of a thing one could draw."""

SIGNS = words(
    """
    arrow arrows chevron chevrons caret angle align sort toggle expand collapse move indent zoom
    rotate flip undo redo layout layer layers grid columns border text paragraph diagram
    paginate battery signal wi-fi volume synchronize delete view share filter direction up down
    left right
    """
)
"""First words of names that are many and show next to nothing: at most a few of each set."""

_CATEGORIES = words(
    """
    common adventure aircraft animal-products award board-game casino-chip crypto-currency
    currency dentistry design-tool drugs e-commerce electronics farmers-market fast-food fitness
    fruit vegetables gymnastics hair-dress human-resources instrument kitchenware laboratory
    make-up martial-arts medical-instrument medical-condition modern-music modern
    natural-disaster office outdoors party professions public-service science-fiction science
    seafood space show soft-drinks weather concert night-club night programming tools swimming
    shooting photography-equipment analytics accounting amusement-park athletics circus business
    cash-payment body-care controls content day e-mail-action email-action road road-sign shape
    smiley-face vintage
    """
)
_LEADING = {
    "streamline-ultimate-color": {
        **dict.fromkeys(_CATEGORIES, ""),
        **{
            "single-neutral-actions": "person",
            "single-neutral": "person",
            "single-man-actions": "man",
        },
        **{"single-man": "man", "single-woman": "woman", "multiple-neutral": "people"},
        **{"multiple-actions": "people", "multiple-users": "users", "style-one-pin": "map pin"},
        **{"style-three-pin": "map pin", "smiley": "smiley", "phone-actions": "phone"},
        **{"phone-action": "phone", "smart-watch-square": "smart watch"},
        **{"smart-watch-circle": "smart watch", "messages-bubble-square": "speech bubble"},
        **{"messages-bubble": "speech bubble", "time-clock": "clock", "book-book": "book"},
    },
}
"""Categories that names of a set begin with, and what stands there instead."""

_PUT_FIRST = {"open", "closed", "broken", "empty"}
"""Adjectives that names have behind the thing: "book-open" is an open book."""
_FACES = words(
    """
    angry frown grin kiss laugh meh smile dizzy surprise tired flushed sad wink rolling
    """
)
_FLAGS = words(
    """
    australia brazil canada china egypt france germany greece india iran iraq italy japan
    malaysia mexico nepal north-korea pakistan portugal russia singapore south-africa
    south-korea spain switzerland syria thailand united-arab-emirates united-kingdom
    united-states
    """
)


def styles_of(collection: Mapping[str, object]) -> tuple[list[str], list[str]]:
    """The prefixes and suffixes that a set declares to be its styles, longest first."""
    found = []
    for kind in ("prefixes", "suffixes"):
        declared = collection.get(kind)
        names = list(declared) if isinstance(declared, Mapping) else []
        found.append(sorted((name for name in names if name), key=lambda n: (-len(n), n)))
    return found[0], found[1]


def stem(name: str, prefixes: Iterable[str] = (), suffixes: Iterable[str] = ()) -> str:
    """A name without the styles its set declares, those that all sets use, and numbers.

    "alarm-clock-24-filled" becomes "alarm-clock", "home-2" "home"; but "traffic-light" stays.
    """
    for prefix in prefixes:
        name = name.removeprefix(f"{prefix}-")
    for suffix in suffixes:
        if name.endswith(f"-{suffix}"):
            name = name.removesuffix(f"-{suffix}")
            break
    words = name.split("-")
    while len(words) > 1 and (
        words[-1] in _STYLES or _NUMBERED.fullmatch(words[-1]) or words[-1] in _COUNTED
    ):
        words.pop()
    while len(words) > 1 and words[0] in ("outline", "baseline", "twotone", "sharp"):
        words.pop(0)
    words[-1] = _GLUED_NUMBER.sub("", words[-1])
    return "-".join(words)


def caption_of(stemmed: str, prefix: str = "") -> str:
    """The words of a stem, as one would type them: "fruit-banana" of some sets is a banana."""
    leading = _LEADING.get(prefix, {})
    for category in sorted(leading, key=len, reverse=True):
        if stemmed.startswith(f"{category}-"):
            stemmed = f"{leading[category]}-{stemmed.removeprefix(f'{category}-')}".strip("-")
            break
    if prefix == "streamline-emojis" and stemmed in _FLAGS:
        return f"flag: {stemmed.replace('-', ' ')}"
    words = [SPELLING.get(word, word) for word in re.split(r"[-_ ]+", stemmed) if word]
    if prefix == "glyphs-poly" and words[0] in _FACES:
        words.append("face")
    if len(words) > 1 and words[-1] in _PUT_FIRST:
        words.insert(0, words.pop())
    return " ".join(words).replace("t shirt", "t-shirt").replace("e mail", "e-mail")


def is_of_interface(caption: str) -> bool:
    """Whether a caption speaks of an interface: silhouettes are of things alone."""
    return any(word in MODIFIERS for word in caption.split())


def is_sign(caption: str) -> bool:
    """Whether a caption is of a sign of which there are too many, such as an arrow."""
    return caption.split()[0] in SIGNS or "arrow" in caption
