"""Captions: a small grammar with synonyms, written and read back.

    caption  = [opener] clause {", and " clause}
    clause   = thing | thing ["is"] relation thing | relation thing "is" thing
    thing    = ("a" | "an") [size] colour shape      an object not mentioned before
             | "the" colour shape                    one that was

No two objects share colour and shape, so "the" always knows which one it means.
"""

import re

import numpy as np

from dalle_base.common.errors import UserError
from dalle_base.data.shapes.scenes import MAX_OBJECTS, Description, Relation, Scene, Specification
from dalle_base.data.shapes.words import COLOURS, MEANING, RELATIONS, SHAPES, SIZES, SYNONYMS

OPENERS = ("", "", "there is ", "a picture of ")
SIZE_STATED = 0.6  # the odds that a caption states an object's size


def caption(scene: Scene, rng: np.random.Generator) -> str:
    """Return words for a scene: true of it, and complete but for sizes, which may be left out."""
    writer = _Writer(scene, rng)
    opener = _choose(rng, OPENERS)
    if not scene.relations:
        return opener + writer.thing(0)
    first, *rest = (scene.relations[i] for i in rng.permutation(len(scene.relations)))
    clauses = [opener + writer.clause(first, plain=bool(opener))]
    return ", and ".join(clauses + [writer.clause(relation) for relation in rest])


def parse_caption(text: str) -> Specification:
    """Read a caption of the grammar, in any letter case.

    Returns:
        What it says; objects come in order of mention.

    Raises:
        UserError: anything else; the line quotes the words at fault.
    """
    words = re.sub(r"\s+", " ", text.lower()).strip().removesuffix(".")
    reader = _Reader(text)
    for clause in _JOINT.split(_OPENER.sub("", words)):
        reader.read(clause)
    if len(reader.objects) > MAX_OBJECTS:
        raise UserError(f"a caption names 1 to {MAX_OBJECTS} objects: {text!r}")
    return Specification(tuple(reader.objects), tuple(reader.relations))


class _Writer:
    """Writes clauses and remembers which objects were mentioned."""

    def __init__(self, scene: Scene, rng: np.random.Generator):
        self.scene, self.rng = scene, rng
        self.mentioned: set[int] = set()

    def thing(self, index: int) -> str:
        thing = self.scene.objects[index]
        words = [self.word(thing.colour), self.word(thing.shape)]
        if index in self.mentioned:
            return " ".join(["the", *words])
        self.mentioned.add(index)
        if self.rng.random() < SIZE_STATED:
            words.insert(0, self.word(thing.size))
        return " ".join(["an" if words[0][0] in "aeiou" else "a", *words])

    def clause(self, relation: Relation, plain: bool = False) -> str:
        """One fact, from either end; `plain` keeps to the form that can follow an opener."""
        if self.rng.random() < 0.5:
            relation = relation.inverse()
        name = self.word(relation.name)
        if not plain and self.rng.random() < 0.2:
            return f"{name} {self.thing(relation.object)} is {self.thing(relation.subject)}"
        known = relation.subject in self.mentioned
        verb = " is" if known or (not plain and self.rng.random() < 0.5) else ""
        return f"{self.thing(relation.subject)}{verb} {name} {self.thing(relation.object)}"

    def word(self, name: str) -> str:
        return _choose(self.rng, SYNONYMS[name])


class _Reader:
    """Reads clauses and keeps the objects and relations found so far."""

    def __init__(self, text: str):
        self.text = text
        self.objects: list[Description] = []
        self.relations: list[Relation] = []

    def read(self, clause: str) -> None:
        if match := _THING.fullmatch(clause):
            self.thing(match[0])
        elif match := _FORWARD.fullmatch(clause):
            subject, name, other = match.groups()
            self.relate(self.thing(subject), name, self.thing(other))
        elif match := _BACKWARD.fullmatch(clause):
            name, other, subject = match.groups()
            index = self.thing(other)
            self.relate(self.thing(subject), name, index)
        else:
            raise UserError(
                f"cannot read {clause!r} in the caption {self.text!r}; write, for example, "
                "'a small red circle left of a blue star'"
            )

    def relate(self, subject: int, name: str, other: int) -> None:
        if subject == other:
            raise UserError(f"an object is related to itself in the caption {self.text!r}")
        self.relations.append(Relation(subject, MEANING[name], other))

    def thing(self, words: str) -> int:
        """The index of the object these words introduce or refer to."""
        match = _THING.fullmatch(words)
        assert match is not None, "only called with what _THING matched"
        article, size, colour, shape = match.groups()
        pair = (MEANING[colour], MEANING[shape])
        known = [(o.colour, o.shape) for o in self.objects]
        if article == "the" and pair in known and size is None:
            return known.index(pair)
        if article == "the":
            raise UserError(f"{words!r} refers to nothing before it in the caption {self.text!r}")
        if pair in known:
            raise UserError(f"two objects share colour and shape in the caption {self.text!r}")
        self.objects.append(Description(*pair, MEANING[size] if size else None))
        return len(self.objects) - 1


def _choose(rng: np.random.Generator, options: tuple[str, ...]) -> str:
    return options[rng.integers(len(options))]


def _any_of(names: tuple[str, ...]) -> str:
    return "|".join(word for name in names for word in SYNONYMS[name])


def _noun_phrase(group: str) -> str:
    """A thing's regular expression; `group` is "" to capture its words or "?:" not to."""
    size, colour, shape = map(_any_of, (SIZES, COLOURS, SHAPES))
    return rf"({group}a|an|the) (?:({group}{size}) )?({group}{colour}) ({group}{shape})"


_PHRASE = _noun_phrase("?:")
_RELATION = _any_of(RELATIONS)
_THING = re.compile(_noun_phrase(""))
_FORWARD = re.compile(rf"({_PHRASE}) (?:is )?({_RELATION}) ({_PHRASE})")
_BACKWARD = re.compile(rf"({_RELATION}) ({_PHRASE}) is ({_PHRASE})")
_OPENER = re.compile("^(?:" + "|".join(filter(None, OPENERS)) + ")")
_JOINT = re.compile(r",? and |[,;] ")
