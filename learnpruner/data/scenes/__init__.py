"""Procedural scenes with questions: the data of the embedded backbone, made on the fly and never downloaded.

A scene is a 192 x 192 picture. Coloured shapes, most with look-alikes, and plates that carry real handwritten numbers (scikit-learn's bundled
digits) lie on a background whose left and right half have a texture each, under uneven light. Between them lies clutter that is never
asked about: grey handwritten digits, and strokes, rings and crosses in the shapes' colours. One shape wears a small mark. Every digit has four
patches of its own and no other patch tells it, so that a number is read from many tokens together. Every question names the patches that
its answer rests on, so that an oracle can keep them first.

A scene is a function of (seed, split, index, style) alone; handwriting of train, validation and test is disjoint.
Write a folder in LLaVA-Instruct format with ``python -m learnpruner.data.scenes OUT --split train --count 1000``.
"""

from learnpruner.data.scenes.dataset import SCENE_STYLES, benchmark_sample, make_scene
from learnpruner.data.scenes.folder import write_folder
from learnpruner.data.scenes.parts import (
    CANVAS,
    COLOR_NAMES,
    COLORS,
    COLUMN_NAMES,
    GRID,
    MOST_DIGITS,
    NO_LABEL,
    OUTLINES,
    PATCH,
    PLATE,
    QUESTION_KINDS,
    RIGHT_HALF,
    ROW_NAMES,
    SHAPES,
    SIDES,
    SPLITS,
    TEXTURES,
    PatchLabels,
    Scene,
    SceneQuestion,
    Thing,
)

__all__ = [
    "CANVAS",
    "COLORS",
    "COLOR_NAMES",
    "COLUMN_NAMES",
    "GRID",
    "MOST_DIGITS",
    "NO_LABEL",
    "OUTLINES",
    "PATCH",
    "PLATE",
    "QUESTION_KINDS",
    "RIGHT_HALF",
    "ROW_NAMES",
    "SCENE_STYLES",
    "SHAPES",
    "SIDES",
    "SPLITS",
    "TEXTURES",
    "PatchLabels",
    "Scene",
    "SceneQuestion",
    "Thing",
    "benchmark_sample",
    "make_scene",
    "write_folder",
]
