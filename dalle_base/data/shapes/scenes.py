"""What a scene is: its meaning (`Specification`), its layout (`Scene`), and a random one.

Lengths and positions are fractions of the image's side, x to the right and y downwards, so a
scene can be rendered at any size.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import get_args

import numpy as np

from dalle_base.common.errors import UserError
from dalle_base.data.shapes.words import COLOURS, INVERSE, SHAPES, SIZES, Split

# Bounding-box sides, from least to most; the checker tells sizes apart half way between.
WIDTHS = {"small": (12 / 64, 12 / 64), "large": (22 / 64, 22 / 64)}
LATTICE = 8 / 64  # centres stand on its points: fewer ways to cut an object into patches
MARGIN = 2 / 64  # from a box to the frame
GAP = 5 / 64  # between two boxes, along at least one axis
CLEARANCE = 6 / 64  # a relation is stated only if its axis leads the other by this much

MAX_OBJECTS = 3
OBJECT_ODDS = (0.2, 0.4, 0.4)  # of 1, 2 and 3 objects

# Each names another colour and another shape, so both are well known from other pairs.
HELD_OUT_PAIRS = frozenset(
    {("red", "star"), ("blue", "triangle"), ("green", "heart"), ("yellow", "cross")}
)

# Part of what is hashed. With this number the four pairs that "test" shows alone, as a scene of
# one object, are four colours and four shapes.
SPLIT_NAME = "shapes-5"


@dataclass(frozen=True)
class Description:
    """One object as words give it."""

    colour: str
    shape: str
    size: str | None = None
    """None where the words leave it open."""


@dataclass(frozen=True)
class Relation:
    """How one object of a scene lies to another."""

    subject: int
    """Index of the one."""
    name: str
    """left of, right of, above or below."""
    object: int
    """Index of the other."""

    def inverse(self) -> "Relation":
        """Return the same fact, told from the other end."""
        return Relation(self.object, INVERSE[self.name], self.subject)


@dataclass(frozen=True)
class Specification:
    """What a caption says: objects, no two of one colour and shape, and relations between them."""

    objects: tuple[Description, ...]
    relations: tuple[Relation, ...] = ()

    def canonical(self) -> "Specification":
        """Return the one form of all tellings of these facts: sorted, no "right of", no "below"."""
        order = sorted(range(len(self.objects)), key=lambda i: _pair(self.objects[i]))
        place = {old: new for new, old in enumerate(order)}
        facts = [r if r.name in ("left of", "above") else r.inverse() for r in self.relations]
        moved = [Relation(place[r.subject], r.name, place[r.object]) for r in facts]
        moved.sort(key=lambda r: (r.subject, r.object, r.name))
        return Specification(tuple(self.objects[i] for i in order), tuple(moved))

    def split(self) -> Split:
        """Return the split this specification belongs to: the same in every process and release.

        Sizes do not count: a caption may leave them out, and with them in the hash two scenes
        on either side of the split could have one caption.
        """
        if any(_pair(o) in HELD_OUT_PAIRS for o in self.objects):
            return "compositional"
        canonical = self.canonical()
        pairs = [_pair(o) for o in canonical.objects]
        facts = [(r.subject, r.name, r.object) for r in canonical.relations]
        text = f"{SPLIT_NAME} {(pairs, facts)!r}"
        digest = hashlib.blake2b(text.encode(), digest_size=8).digest()
        return "test" if int.from_bytes(digest, "big") % 10 == 0 else "train"


@dataclass(frozen=True)
class SceneObject:
    """One object in its place."""

    colour: str
    shape: str
    size: str
    x: float
    """Centre of its bounding box, from the left."""
    y: float
    """Centre of its bounding box, from the top."""
    width: float
    """Side of its bounding box."""


@dataclass(frozen=True)
class Scene:
    """One to three objects and the relations a caption states of them: one fewer than objects."""

    objects: tuple[SceneObject, ...]
    relations: tuple[Relation, ...] = ()


def random_scene(
    rng: np.random.Generator,
    split: Split = "train",
    objects: int | None = None,
    odds: Sequence[float] = OBJECT_ODDS,
) -> Scene:
    """Sample a scene of a split.

    Args:
        rng: every choice comes from it.
        split: "train"; "test", whose specifications no "train" scene has; or "compositional", with
            at least one object of `HELD_OUT_PAIRS`, which the other two never have.
        objects: how many there are, 1 to 3; by default as `odds` say.
        odds: of 1, 2 and 3 objects; their sum is 1.

    Raises:
        UserError: another split or number.
    """
    if split not in get_args(Split):
        raise UserError(f"split must be train, test or compositional, not {split!r}")
    if objects is None:
        objects = int(rng.choice(range(1, MAX_OBJECTS + 1), p=list(odds)))
    if not 1 <= objects <= MAX_OBJECTS:
        raise UserError(f"a scene has 1 to {MAX_OBJECTS} objects, not {objects}")

    sizes = [SIZES[i] for i in rng.integers(len(SIZES), size=objects)]
    widths = np.array([rng.uniform(*WIDTHS[size]) for size in sizes])
    centres, relations = _arrange(rng, widths)
    pairs = _sample_pairs(rng, objects, relations, split)
    placed = (
        SceneObject(colour, shape, size, float(x), float(y), float(width))
        for (colour, shape), size, (x, y), width in zip(pairs, sizes, centres, widths, strict=True)
    )
    return Scene(tuple(placed), relations)


def relation_between(dx: float, dy: float) -> str:
    """Return how a point lies to another that is (dx, dy) away: along the longer axis."""
    if abs(dx) > abs(dy):
        return "left of" if dx > 0 else "right of"
    return "above" if dy > 0 else "below"


def _pair(thing: Description) -> tuple[str, str]:
    return thing.colour, thing.shape


def _sample_pairs(
    rng: np.random.Generator, objects: int, relations: tuple[Relation, ...], split: Split
) -> list[tuple[str, str]]:
    """Distinct colour-shape pairs that put a scene with these relations in the split."""
    everything = [(colour, shape) for colour in COLOURS for shape in SHAPES]
    while True:
        pairs = [everything[i] for i in rng.integers(len(everything), size=objects)]
        if split == "compositional":
            held_out = sorted(HELD_OUT_PAIRS)
            pairs[rng.integers(objects)] = held_out[rng.integers(len(held_out))]
        meaning = Specification(tuple(Description(*pair) for pair in pairs), relations)
        if len(set(pairs)) == objects and meaning.split() == split:
            return pairs


def _arrange(
    rng: np.random.Generator, widths: np.ndarray
) -> tuple[np.ndarray, tuple[Relation, ...]]:
    """Centres (objects, 2) for boxes of these widths, and the relations to state of them.

    Whole layouts are sampled at once and the first good one kept: three large objects fit in
    a few per cent of layouts only.
    """
    objects = len(widths)
    low = MARGIN + widths[:, None] / 2
    least, most = np.ceil(low / LATTICE), np.floor((1 - low) / LATTICE)
    while True:
        layouts = rng.integers(least, most + 1, size=(64, objects, 2)) * LATTICE
        if objects == 1:
            return layouts[0], ()
        first, second = np.array(list(combinations(range(objects), 2))).T
        apart = np.abs(layouts[:, first] - layouts[:, second])  # (layouts, pairs, 2)
        free = apart.max(axis=2) >= (widths[first] + widths[second]) / 2 + GAP
        clear = np.abs(apart[..., 0] - apart[..., 1]) >= CLEARANCE
        # Any two pairs of three objects share one, so the stated relations join all objects.
        good = np.flatnonzero(free.all(axis=1) & (clear.sum(axis=1) >= objects - 1))
        if good.size:
            best = good[0]
            stated = rng.permutation(np.flatnonzero(clear[best]))[: objects - 1]
            edges = [(int(first[i]), int(second[i])) for i in stated]
            return layouts[best], tuple(_relate(layouts[best], *edge) for edge in edges)


def _relate(centres: np.ndarray, subject: int, other: int) -> Relation:
    dx, dy = centres[other] - centres[subject]
    return Relation(subject, relation_between(dx, dy), other)
