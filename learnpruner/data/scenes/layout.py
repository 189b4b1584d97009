"""Where things and clutter of a scene lie, what they carry, and what each patch shows of them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from learnpruner.data.scenes.parts import (
    CANVAS,
    COLOR_NAMES,
    COLUMN_NAMES,
    GRID,
    NO_LABEL,
    PATCH,
    PLATE,
    ROW_NAMES,
    SHAPES,
    TEXTURES,
    PatchLabels,
    Scrap,
    Thing,
)
from learnpruner.data.scenes.shapes import Box, covered_patches, mark_box, rectangle_patches

DIGIT_CELL = 2 * PATCH  # pixels a side: every digit has four patches of its own
_RIM = PATCH // 2  # of a plate around its digits
_GAP = 4  # pixels between things at least


@dataclass(frozen=True)
class SceneStyle:
    """How many things of which sizes a scene holds: (low, high) inclusive, pixels a side for ``sizes``."""

    shapes: tuple[int, int] = (4, 10)
    plates: tuple[int, int] = (2, 3)
    digits: tuple[int, int] = (3, 5)
    grey_digits: tuple[int, int] = (8, 16)
    scraps: tuple[int, int] = (12, 24)
    sizes: tuple[tuple[int, int], ...] = ((18, 24), (26, 34), (40, 50))
    size_shares: tuple[float, ...] = (0.6, 0.3, 0.1)
    halved: bool = False  # nothing crosses the middle lines, so that the quadrants are pictures of their own


BENCHMARK_STYLE = SceneStyle()
# for the vision tower: most labels a picture
CROWDED_STYLE = SceneStyle((8, 13), (4, 5), (3, 5), (14, 24), (12, 24), size_shares=(0.8, 0.2, 0.0), halved=True)
SHIFTED_STYLE = SceneStyle((8, 12), (2, 3), (3, 5), (8, 16), (12, 24), ((16, 20), (22, 30), (36, 56)))


@dataclass(frozen=True)
class Layout:
    """A scene before it is painted."""

    things: list[Thing]
    background: tuple[str, str]
    labels: PatchLabels
    scraps: list[Scrap]


def arrange_scene(rng: np.random.Generator, style: SceneStyle) -> Layout:
    """Choose and place what a scene holds: plates first, then shapes, then clutter between them."""
    taken = _Taken(rng, style.halved)
    things = [*_plates(rng, style, taken), *_shapes(rng, style, taken)]
    marked = [int(i) for i in rng.permutation([i for i, t in enumerate(things) if not t.is_plate])[:1]]
    things = [thing if i not in marked else Thing(**{**vars(thing), "marked": True}) for i, thing in enumerate(things)]
    labels = _label_things(things)
    scraps = _scraps(rng, style, taken, labels)
    left = TEXTURES[rng.integers(4)]
    right = left if rng.random() < 0.5 else str(rng.choice([t for t in TEXTURES if t != left]))
    return Layout(things, (left, right), labels, scraps)


class _Taken:
    """The places that are taken; finds room for more."""

    def __init__(self, rng: np.random.Generator, halved: bool) -> None:
        self.rng, self.halved = rng, halved
        self.boxes: list[Box] = []

    def place(
        self, height: int, width: int, grid: int = 1, offset: int = 0, gap: int = _GAP, tries: int = 60
    ) -> Box | None:
        """A free box whose corner lies ``offset`` beyond a multiple of ``grid``; None where no room is found.

        Where there is a ``gap``, its centre keeps clear of the lines between the thirds of the picture.
        """
        rooms = [(CANVAS - offset - side) // grid + 1 for side in (height, width)]
        for y, x in (self.rng.integers(0, rooms, (tries, 2)) * grid + offset).tolist():
            near = gap and any(
                abs(c * 3 % CANVAS) < 12 or abs(c * 3 % CANVAS) > CANVAS - 12 for c in (y + height / 2, x + width / 2)
            )
            crosses = self.halved and (y < CANVAS / 2 < y + height or x < CANVAS / 2 < x + width)
            if not near and not crosses and self._is_free(y, x, height, width, gap):
                self.boxes.append((y, x, height, width))
                return self.boxes[-1]
        return None

    def _is_free(self, y: int, x: int, height: int, width: int, gap: int) -> bool:
        bottom, right = y + height + gap, x + width + gap
        return not any(v < bottom and v + h + gap > y and u < right and u + w + gap > x for v, u, h, w in self.boxes)


def _plates(rng: np.random.Generator, style: SceneStyle, taken: _Taken) -> list[Thing]:
    colors, plates = rng.permutation(COLOR_NAMES), []
    for number in range(_between(rng, style.plates)):
        digits = _between(rng, style.digits)
        while digits:
            box = taken.place(DIGIT_CELL + 2 * _RIM, digits * DIGIT_CELL + 2 * _RIM, PATCH, _RIM)
            if box is not None:
                told = " ".join(str(d) for d in rng.integers(0, 10, digits))
                plates.append(_thing(str(colors[number]), PLATE, told, box))
                break
            digits -= 1
    return plates


def _shapes(rng: np.random.Generator, style: SceneStyle, taken: _Taken) -> list[Thing]:
    """Few colours and outlines a scene, so that most things have look-alikes."""
    colors = rng.permutation(COLOR_NAMES)[: rng.integers(2, 6)]
    outlines = rng.permutation(SHAPES)[: rng.integers(2, 5)]
    sizes = sorted((_size(rng, style) for _ in range(_between(rng, style.shapes))), reverse=True)
    shapes = []
    for size in sizes:
        box = taken.place(size, size)
        if box is not None:
            shapes.append(_thing(str(rng.choice(colors)), str(rng.choice(outlines)), "", box))
    return shapes


def _size(rng: np.random.Generator, style: SceneStyle) -> int:
    return _between(rng, style.sizes[rng.choice(len(style.sizes), p=style.size_shares)])


def _thing(color: str, outline: str, number: str, box: Box) -> Thing:
    y, x, height, width = box
    row, column = (min(2, int(c * 3 / CANVAS)) for c in (y + height / 2, x + width / 2))
    return Thing(
        color, outline, number, ROW_NAMES[row], COLUMN_NAMES[column], False, box, covered_patches(outline, box)
    )


def _label_things(things: list[Thing]) -> PatchLabels:
    count = GRID * GRID
    thing, mark = np.zeros(count, dtype=np.int64), np.zeros(count, dtype=np.int64)
    digit, place, last, scrap = (np.full(count, NO_LABEL) for _ in range(4))
    for i, one in enumerate(things):
        thing[one.patches] = i + 1
        digits = one.number.split()
        for number, value in enumerate(digits):
            patches = cell_patches(one.box, number)
            digit[patches], place[patches], last[patches] = int(value), number, int(number + 1 == len(digits))
    for i, one in enumerate(things):
        if one.marked:
            patches = rectangle_patches(mark_box(one.box))
            patches = patches[(thing[patches] == 0) | (thing[patches] == i + 1)]
            mark[patches], thing[patches] = 1, i + 1
    return PatchLabels(thing, digit, place, last, mark, scrap)


def cell_patches(box: Box, number: int) -> np.ndarray:
    """The four patches of a plate's digit; its box starts half a patch before the first."""
    top, left = (box[0] + _RIM) // PATCH, (box[1] + _RIM) // PATCH + 2 * number
    return np.array([(top + row) * GRID + left + column for row in (0, 1) for column in (0, 1)])


def _scraps(rng: np.random.Generator, style: SceneStyle, taken: _Taken, labels: PatchLabels) -> list[Scrap]:
    scraps = []
    for _ in range(_between(rng, style.grey_digits)):
        box = taken.place(DIGIT_CELL, DIGIT_CELL, PATCH, 0, gap=0, tries=20)
        if box is not None:
            scraps.append(Scrap("digit", int(rng.integers(10)), box))
            labels.digit[cell_patches((box[0] - _RIM, box[1] - _RIM, 0, 0), 0)] = scraps[-1].value
    for _ in range(_between(rng, style.scraps)):
        side = int(rng.integers(5, 10))
        box = taken.place(side, side, gap=0, tries=20)
        if box is not None:
            kind, color = str(rng.choice(("stroke", "ring", "cross"))), int(rng.integers(len(COLOR_NAMES)))
            patches = rectangle_patches(box)
            patches = patches[(labels.thing[patches] == 0) & (labels.digit[patches] == NO_LABEL)]
            labels.scrap[patches] = color
            scraps.append(Scrap(kind, color, box))
    return scraps


def _between(rng: np.random.Generator, ends: tuple[int, int]) -> int:
    return int(rng.integers(ends[0], ends[1] + 1))
