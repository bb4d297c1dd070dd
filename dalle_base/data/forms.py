"""Other wordings of what an image shows, as people type them: "a red heart icon on white".

ADD A WORDING = one line in `ON_WHITE`, for images on white, or in `ON_GROUND`, for those on a
coloured ground. A wording has slots: `thing` is "red bell", `a_thing` "a red bell" (or "red
scissors"), `ground` "blue" and `a_ground` "a blue"; `a_red` stands for the thing with an article in
any case, as it has before "icon".
"""

import re
from collections.abc import Sequence, Set

ON_WHITE = (
    "{thing}",
    "{a_thing}",
    "the {thing}",
    "{thing} icon",
    "{a_red} icon",
    "{a_thing} on white",
    "{thing} icon on white",
    "{a_red} icon on a white background",
    "an icon of {a_thing}",
)
ON_GROUND = (
    "{thing} on {ground}",
    "{a_thing} on {ground}",
    "{thing} icon on {ground}",
    "{a_thing} on {a_ground} background",
    "{a_red} icon on {a_ground} background",
    "{thing} icon, {ground} background",
)
WHITE = ("", "white")


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


# Vowels that are spoken as consonants ("a unicorn", "a one-way sign"), and the reverse ("an hour").
_A = re.compile(r"(eu|ewe|one\b|once\b|uni(?!n|m)|us[aeu]|usb|ut[aeio]|ura|uri|uro|uk|ufo|ubi|u\b)")
_AN = re.compile(
    r"([aeiou]|hour|honest|heir|honou?r|8|11\b|18\b|x-|[fhlmnrsx]\b|(mp[34]?|sd|sms|rss|nfc|lcd|html)\b)"
)
_PREPOSITIONS = re.compile(r" (with|without|of|in|on|and|for|from|to|behind|over|under|at|as) ")
_NO_ARTICLE_BEFORE = re.compile(
    r"(\d|(no|two|three|four|five|six|seven|eight|nine|ten|eleven|twelve|hundred|pair)\b)"
)
_SINGULAR_S = {"lens", "gas", "canvas", "atlas", "christmas", "biceps", "rhinoceros"}
_PLURALS = _words(
    """
    people men women children feet teeth mice geese dice police cattle
    """
)
_MASS = _words(
    """
    water rain snow hail fog haze mist wind ice fire lightning smoke weather money cash bread
    rice music coffee tea milk salt sugar honey meat bacon beef food hair sand popcorn luggage
    clothing wood soup butter cheese cannabis garlic ginger golf badminton hockey soccer rugby
    karate judo radiation electricity power wi-fi bluetooth traffic software dna toast tofu jam
    sushi spaghetti broccoli corn wheat grass sake poo ketchup mustard laundry equipment jewelry
    furniture paper dizzy earth braille internet air gold silver  soap
    wine beer
    """
)


def wordings(name: str, colour: str = "", ground: str = "") -> tuple[str, ...]:
    """All wordings of an image, each once.

    Args:
        name: what it shows ("bell"); one with a colon ("flag: poland") has no other wordings.
        colour: the thing's, if it was drawn in one.
        ground: what it stands on; empty for white.
    """
    if ":" in name or not name:
        return ()
    thing = f"{colour} {name}".strip()
    slots = {
        "thing": thing,
        "a_thing": indefinite(thing) if takes_article(name) else thing,
        "a_red": indefinite(thing),
        "ground": ground,
        "a_ground": indefinite(ground),
    }
    forms = ON_WHITE if ground in WHITE else ON_GROUND
    return tuple(dict.fromkeys(form.format(**slots) for form in forms))


def short_names(
    name: str, keywords: Sequence[str], taken: Set[str] = frozenset()
) -> tuple[str, ...]:
    """What people call a thing without its details, as far as its keywords say.

    The head of its name where a keyword repeats it: "tree" for "evergreen tree", "dog" for "dog
    face", "moon" for "moon over hills". Otherwise any keyword may stand for it, "car" for
    "automobile" but "driving" as well, unless it is the name of something else.

    Args:
        name: what an image shows.
        keywords: words that go with it.
        taken: names of all things: "dog" is one, so that a bone is no dog.
    """
    words = _PREPOSITIONS.split(name)[0].removesuffix(" face").split()
    if words and words[-1] in keywords and words[-1] != name:
        return (words[-1],)
    return tuple(word for word in keywords if word not in taken)


def indefinite(phrase: str) -> str:
    """A phrase with "a" or "an" before it, by how its beginning is spoken."""
    spoken = phrase.lower()
    return f"{'an' if not _A.match(spoken) and _AN.match(spoken) else 'a'} {phrase}"


def takes_article(name: str) -> bool:
    """Whether "a" may stand before a name; in doubt it does not: plurals, stuff, numbers."""
    if _NO_ARTICLE_BEFORE.match(name) or len(name) == 1:
        return False
    head = _PREPOSITIONS.split(name)[0].split()[-1]
    is_plural = head.endswith("s") and not head.endswith(("ss", "us", "is", "'s", "’s"))
    return not (head in _MASS or head in _PLURALS or (is_plural and head not in _SINGULAR_S))
