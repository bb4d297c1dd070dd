"""Scenes that are wrong by one thing: what a ranker has to tell from those that are right."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import combinations, product

import numpy as np

from dalle_base.data.shapes.scenes import (
    GAP,
    LATTICE,
    MARGIN,
    WIDTHS,
    Scene,
    SceneObject,
    relation_between,
)
from dalle_base.data.shapes.words import COLOURS, SHAPES, SIZES

STEPS = 2
"""Points of the lattice that an object is moved by, at most: a relation is missed narrowly."""

Objects = tuple[SceneObject, ...]


def moved(scene: Scene, rng: np.random.Generator) -> list[Scene]:
    """Return scenes in which one object stands up to `STEPS` off and a stated relation fails.

    Where it now lies on a diagonal, the checker may still read what was stated.
    """
    steps = [step * LATTICE for step in range(-STEPS, STEPS + 1)]
    found = []
    for place, (dx, dy) in product(range(len(scene.objects)), product(steps, steps)):
        there = scene.objects[place]
        objects = _with(scene.objects, place, replace(there, x=there.x + dx, y=there.y + dy))
        if _fits(objects) and not _holds(objects, scene):
            found.append(replace(scene, objects=objects))
    return _shuffled(found, rng)


def exchanged(scene: Scene, rng: np.random.Generator) -> list[Scene]:
    """Return scenes in which two objects have one another's place, colour or shape."""
    found = []
    for (a, one), (b, other) in combinations(enumerate(scene.objects), 2):
        for names in (("x", "y"), ("colour",), ("shape",)):
            theirs, own = ({name: getattr(each, name) for name in names} for each in (other, one))
            if theirs == own:
                continue
            objects = _with(scene.objects, a, replace(one, **theirs))
            objects = _with(objects, b, replace(other, **own))
            if _fits(objects):
                found.append(replace(scene, objects=objects))
    return _shuffled(found, rng)


def altered(scene: Scene, rng: np.random.Generator) -> list[Scene]:
    """Return scenes in which one object has another colour, shape or size, one of each."""
    found = []
    for place, there in enumerate(scene.objects):
        for name, values in (("colour", COLOURS), ("shape", SHAPES), ("size", SIZES)):
            others = [value for value in values if value != getattr(there, name)]
            new = str(rng.choice(others))
            width = rng.uniform(*WIDTHS[new]) if name == "size" else there.width
            changed = replace(there, width=width, **{name: new})
            objects = _with(scene.objects, place, changed)
            if _fits(objects):
                found.append(replace(scene, objects=objects))
    return _shuffled(found, rng)


def left_out(scene: Scene, rng: np.random.Generator) -> list[Scene]:
    """Return scenes of two and more objects without one of them."""
    if len(scene.objects) < 2:
        return []
    places = range(len(scene.objects))
    return _shuffled([Scene(scene.objects[:i] + scene.objects[i + 1 :]) for i in places], rng)


EDITS: dict[Callable[[Scene, np.random.Generator], list[Scene]], float] = {
    moved: 0.5,
    exchanged: 0.25,
    altered: 0.15,
    left_out: 0.1,
}
"""How a scene goes wrong, and how often: about as a transformer's samples do."""


def wrong_scenes(scene: Scene, rng: np.random.Generator, count: int) -> list[Scene]:
    """Return at most `count` scenes, each wrong by one edit; a caption may leave it open.

    Objects stay within the frame and apart. The edits come as often as `EDITS` says, where the
    scene allows them. What a scene states of relations is what the right one states.
    """
    pools = {edit: edit(scene, rng) for edit in EDITS}
    found: list[Scene] = []
    while len(found) < count and any(pools.values()):
        left = [edit for edit, pool in pools.items() if pool]
        weights = np.array([EDITS[edit] for edit in left])
        found.append(pools[left[rng.choice(len(left), p=weights / weights.sum())]].pop())
    return found


def _shuffled(scenes: Sequence[Scene], rng: np.random.Generator) -> list[Scene]:
    return [scenes[i] for i in rng.permutation(len(scenes))]


def _with(objects: Objects, place: int, new: SceneObject) -> Objects:
    return (*objects[:place], new, *objects[place + 1 :])


def _fits(objects: Sequence[SceneObject]) -> bool:
    """Whether all boxes are inside the frame and apart, as in `random_scene`."""
    for each in objects:
        near = MARGIN + each.width / 2 - 1e-9
        if not (near <= each.x <= 1 - near and near <= each.y <= 1 - near):
            return False
    return all(
        max(abs(a.x - b.x), abs(a.y - b.y)) >= (a.width + b.width) / 2 + GAP - 1e-9
        for i, a in enumerate(objects)
        for b in objects[:i]
    )


def _holds(objects: Objects, scene: Scene) -> bool:
    """Whether all relations that a scene states are true of these objects."""
    pairs = ((objects[r.subject], r.name, objects[r.object]) for r in scene.relations)
    return all(relation_between(b.x - a.x, b.y - a.y) == name for a, name, b in pairs)
