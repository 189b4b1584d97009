"""What a scene is made of, in words and numbers."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

CANVAS, PATCH = 192, 8
GRID = CANVAS // PATCH
SPLITS = ("train", "validation", "test")
COLORS = {
    "red": (220, 40, 40),
    "green": (40, 180, 60),
    "blue": (50, 80, 230),
    "yellow": (230, 210, 40),
    "purple": (160, 50, 200),
    "cyan": (40, 200, 210),
    "orange": (245, 140, 30),
    "pink": (250, 130, 190),
}
COLOR_NAMES = tuple(COLORS)
SHAPES = ("square", "circle", "triangle", "diamond")
TEXTURES = ("plain", "stripes", "dots", "checks")
ROW_NAMES, COLUMN_NAMES = ("top", "middle", "bottom"), ("left", "center", "right")
SIDES = ("left", "right")
QUESTION_KINDS = ("existence", "attribute", "relation", "reading", "counting", "position", "background")
RIGHT_HALF = np.arange(GRID * GRID) % GRID >= GRID // 2  # (576,): which patches lie right of the middle


@dataclass(frozen=True)
class Thing:
    """One shape: colour, outline, number, place. ``patches`` are raster indices on the 24 x 24 grid."""

    color: str
    shape: str
    number: str
    row: str
    column: str
    marked: bool
    box: tuple[int, int, int]
    patches: np.ndarray


@dataclass(frozen=True)
class SceneQuestion:
    """``evidence``: one array of patch indices for each thing that the answer rests on, best patches first."""

    kind: str
    text: str
    answer: str
    evidence: list[np.ndarray] = field(repr=False)


@dataclass(frozen=True)
class PatchLabels:
    """What each of the 576 patches shows: ``thing`` (0 is background, i + 1 is things[i]), ``second`` (it shows the second of two digits) and ``mark``."""

    thing: np.ndarray
    second: np.ndarray
    mark: np.ndarray


@dataclass(frozen=True)
class Scene:
    """``image`` (192, 192, 3) uint8, or None where only the layout was asked for; ``background`` is (left texture, right texture)."""

    image: np.ndarray | None
    things: list[Thing]
    background: tuple[str, str]
    labels: PatchLabels
    questions: list[SceneQuestion]
