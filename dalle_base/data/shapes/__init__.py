"""Captioned scenes drawn in code, without end, and a checker that reads an image back.

One to three objects have a colour, a shape and a size, and stand left of, right of, above or below
each other. `python -m corpora.shapes --out FOLDER` writes a folder of them.
"""

from dalle_base.data.shapes.captions import caption, parse_caption
from dalle_base.data.shapes.checker import (
    KINDS,
    CheckResult,
    ObservedObject,
    check,
    read_objects,
    summarise,
    tallies,
)
from dalle_base.data.shapes.corpus import described_scene, example
from dalle_base.data.shapes.drawing import PALETTE, render
from dalle_base.data.shapes.edits import wrong_scenes
from dalle_base.data.shapes.scenes import (
    HELD_OUT_PAIRS,
    OBJECT_ODDS,
    Description,
    Relation,
    Scene,
    SceneObject,
    Specification,
    random_scene,
)
from dalle_base.data.shapes.words import COLOURS, RELATIONS, SHAPES, SIZES, SYNONYMS, Split

__all__ = [
    "COLOURS",
    "HELD_OUT_PAIRS",
    "KINDS",
    "OBJECT_ODDS",
    "PALETTE",
    "RELATIONS",
    "SHAPES",
    "SIZES",
    "SYNONYMS",
    "CheckResult",
    "Description",
    "ObservedObject",
    "Relation",
    "Scene",
    "SceneObject",
    "Specification",
    "Split",
    "caption",
    "check",
    "described_scene",
    "example",
    "parse_caption",
    "random_scene",
    "read_objects",
    "render",
    "summarise",
    "tallies",
    "wrong_scenes",
]
