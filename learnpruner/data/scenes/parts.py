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
PLATE = "plate"
OUTLINES = (*SHAPES, PLATE)
TEXTURES = ("plain", "stripes", "dots", "checks")
ROW_NAMES, COLUMN_NAMES = ("top", "middle", "bottom"), ("left", "center", "right")
SIDES = ("left", "right")
QUESTION_KINDS = ("existence", "attribute", "relation", "reading", "counting", "position", "background")
RIGHT_HALF = np.arange(GRID * GRID) % GRID >= GRID // 2  # (576,): which patches lie right of the middle
MOST_DIGITS = 5  # on a plate
NO_LABEL = -1


@dataclass(frozen=True)
class Thing:
    """A coloured shape, or a plate with a number. ``box`` is (top, left, height, width) in pixels; ``patches`` are raster indices on the 24 x 24 grid."""

    color: str
    outline: str
    number: str
    row: str
    column: str
    marked: bool
    box: tuple[int, int, int, int]
    patches: np.ndarray

    @property
    def is_plate(self) -> bool:
        return self.outline == PLATE


@dataclass(frozen=True)
class SceneQuestion:
    """``evidence``: one array of patch indices for each thing or digit that the answer rests on, best patches first."""

    kind: str
    text: str
    answer: str
    evidence: list[np.ndarray] = field(repr=False)


@dataclass(frozen=True)
class PatchLabels:
    """What each of the 576 patches shows itself; NO_LABEL where it shows nothing of the sort.

    ``thing``: 0 is background, i + 1 is things[i]. ``digit``: 0 to 9, on plates and in clutter. ``place``: which digit of its plate's number,
    from 0. ``last``: 1 where that digit is the number's last. ``mark``: 1 on the mark. ``scrap``: the colour of a piece of clutter.
    """

    thing: np.ndarray
    digit: np.ndarray
    place: np.ndarray
    last: np.ndarray
    mark: np.ndarray
    scrap: np.ndarray

    @property
    def free(self) -> np.ndarray:
        """(576,) bool: patches that show the background alone."""
        return (self.thing == 0) & (self.digit == NO_LABEL) & (self.scrap == NO_LABEL)


@dataclass(frozen=True)
class Scrap:
    """A piece of clutter, never asked about: a grey digit (``digit``), or a small stroke, ring or cross in one of the colours."""

    kind: str
    value: int
    box: tuple[int, int, int, int]


@dataclass(frozen=True)
class Scene:
    """``image`` (192, 192, 3) uint8, or None where only the layout was asked for; ``background`` is (left texture, right texture)."""

    image: np.ndarray | None
    things: list[Thing]
    background: tuple[str, str]
    labels: PatchLabels
    questions: list[SceneQuestion]

    @property
    def shapes(self) -> list[Thing]:
        """The things that are no plates: what questions call objects."""
        return [thing for thing in self.things if not thing.is_plate]

    @property
    def plates(self) -> list[Thing]:
        """The things that carry numbers."""
        return [thing for thing in self.things if thing.is_plate]

    def digit_patches(self, plate: Thing) -> list[np.ndarray]:
        """Patches of each digit of a plate's number, in reading order."""
        places = self.labels.place[plate.patches]
        return [plate.patches[places == place] for place in range(len(plate.number.split()))]
