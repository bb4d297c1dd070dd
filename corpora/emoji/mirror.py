"""Which images may be flipped: a flip must leave both the image and its caption true."""

import re

_SIDED_SUBGROUPS = {
    # Signs, letters, figures and flags are read one way.
    *("transport-sign", "warning", "arrow", "religion", "zodiac", "av-symbol", "gender", "math"),
    *("punctuation", "currency", "other-symbol", "keycap", "alphanum", "geometric", "flag"),
    *("country-flag", "subdivision-flag"),
    # Clock faces, print, keys and screens show letters or figures.
    *("time", "book-paper", "money", "mail", "writing", "computer", "phone", "award-medal"),
    *("game", "place-map", "music"),
    # A hand is a left or a right one.
    *("face-hand", "hand-fingers-open", "hand-fingers-partial", "hand-single-finger"),
    *("hand-fingers-closed", "hands", "hand-prop", "body-parts", "person-gesture"),
}

_SIDED_WORDS = re.compile(
    r"\b("
    r"left|right|leftwards|rightwards|east|west|clockwise|arrow|facing|"
    # The moon's phase is the side that is lit.
    r"moon|"
    # Buildings and vehicles that carry lettering.
    r"hospital|hotel|post office|bank|school|convenience store|department store|station|"
    r"bus stop|stop sign|metro|bus|trolleybus|minibus|police|ambulance|fire engine|taxi|"
    r"racing|motorway|tokyo tower|kaaba|wedding|"
    # Things with print, figures or a scale on them.
    r"hundred points|zzz|symbols on mouth|money-mouth|speech|eye in|calendar|cards?|chart|"
    r"clipboard|index|tickets?|identification|placard|badge|salt|canned|milk|sake|"
    r"red envelope|lantern|level slider|running shirt|x-ray|dna|thermometer|magnifying glass|"
    r"ruler|videocassette|television|clapper board|film projector|battery|keyboard|"
    r"love letter|billed cap|superhero|firecracker|teacher|oil drum|takeout box|fortune cookie"
    r")\b"
)


def mirrorable(caption: str, subgroup: str) -> bool:
    """Whether a horizontal flip surely keeps the image true to its caption; in doubt, no."""
    return subgroup not in _SIDED_SUBGROUPS and not _SIDED_WORDS.search(caption)
