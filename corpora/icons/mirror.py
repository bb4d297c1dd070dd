"""Which icons may be flipped: as emoji may, and less where a name alone tells."""

import re

from corpora.emoji.mirror import mirrorable as emoji_mirrorable

# Emoji have groups for these; icons have only their names.
_SIDED = re.compile(
    r"\b(clock|watch|stopwatch|timer|hourglass|hands?|fist|thumbs?|fingers?|finger|palm|wave|waving|"
    r"flag|keyboards?|phone|smartphone|telephone|book|books|notebook|newspaper|news|paper|document|"
    r"file|note|notes|letter|mail|envelope|receipt|passport|certificate|id|license|money|cash|coin|"
    r"coins|dollar|euro|pound|yen|yuan|currency|bank|bill|price|discount|percent|sale|tax|medal|"
    r"music|musical|pen|pencil|signature|text|font|translate|language|abc|alphabet|number|numbers|"
    r"question|exclamation|info|check|checkmark|code|terminal|graph|analytics|diagram|data|map|"
    r"globe|earth|world|compass|dice|chess|play|forward|back|undo|redo|refresh|sync|share|"
    r"search|zoom|cursor|pointer|database|barcode|qr|atm|tv|gps|usb|sim|sd|zodiac|up|down|turn|"
    r"calculator|piano|guitar|violin|scissors|key|ear|nose|foot|shoe|boot|leg|arm|menu|list|"
    r"settings|crescent|question-mark|o'clock|thirty|play|video|speaker|volume|button|sign)\b"
)


def mirrorable(concept: str) -> bool:
    """Whether a horizontal flip surely keeps an icon true to its name; in doubt, no."""
    return ":" not in concept and emoji_mirrorable(concept, "") and not _SIDED.search(concept)
