"""Captioned scenes drawn in code, without end, and a checker that reads a picture back.

One to three objects have a colour, a shape and a size, and stand left of, right of, above or below
each other. `python -m corpora.shapes --out FOLDER` writes a folder of them.
"""

from corpora.shapes.captions import caption, parse_caption
from corpora.shapes.checker import (
    KINDS,
    CheckResult,
    ObservedObject,
    check,
    read_picture,
    summarise,
)
from corpora.shapes.corpus import ShapesCorpus, described_scene, example
from corpora.shapes.drawing import PALETTE, render
from corpora.shapes.scenes import (
    HELD_OUT_PAIRS,
    Description,
    Relation,
    Scene,
    SceneObject,
    Specification,
    random_scene,
)
from corpora.shapes.words import COLOURS, RELATIONS, SHAPES, SIZES, SYNONYMS, Split

__all__ = [
    "COLOURS",
    "HELD_OUT_PAIRS",
    "KINDS",
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
    "ShapesCorpus",
    "Specification",
    "Split",
    "caption",
    "check",
    "described_scene",
    "example",
    "parse_caption",
    "random_scene",
    "read_picture",
    "render",
    "summarise",
]
