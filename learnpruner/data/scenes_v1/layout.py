"""Where the shapes of a scene lie, what they carry, and what each patch shows of them."""

from __future__ import annotations

import numpy as np

from learnpruner.data.scenes.parts import CANVAS, COLOR_NAMES, COLUMN_NAMES, GRID, PATCH, ROW_NAMES, SHAPES, TEXTURES
from learnpruner.data.scenes_v1.parts import PatchLabelsV1, ThingV1
from learnpruner.data.scenes_v1.shapes import covered_patches_v1, mark_patches

_OBJECTS = (3, 8)
_CROWD = (
    14,
    22,
)  # in a crowded scene: more labels a picture for the vision tower's pre-training, colours repeat, no questions
_SIZES = ((20, 25), (28, 35), (44, 61))  # pixels a side: about 9, 16 and more than 36 patches
_SIZE_SHARES = (0.6, 0.25, 0.15)
_TWO_DIGITS_FROM = 36  # pixels a side: smaller shapes have room for one digit


def arrange_things_v1(rng: np.random.Generator, crowded: bool) -> tuple[list[ThingV1], tuple[str, str], PatchLabelsV1]:
    """Choose and place the shapes of a scene: these, the background, and what each patch shows."""
    low, high = _CROWD if crowded else _OBJECTS
    count = int(rng.integers(low, high + 1))
    sizes = sorted((int(rng.integers(*_SIZES[rng.choice(3, p=_SIZE_SHARES)])) for _ in range(count)), reverse=True)
    boxes = _place(sizes, rng)
    colors = np.concatenate([rng.permutation(COLOR_NAMES) for _ in range(3)])[: len(boxes)]
    marked = rng.permutation(len(boxes))[: 1 + len(boxes) // 8 * crowded]
    labels = PatchLabelsV1(*(np.zeros(GRID * GRID, dtype=np.int64) for _ in range(3)))
    things = []
    for i, (y, x, size) in enumerate(boxes):
        shape = SHAPES[rng.integers(len(SHAPES))]
        digits = 1 + int(size >= _TWO_DIGITS_FROM and rng.random() < 0.6)
        number = " ".join(str(d) for d in rng.integers(0, 10, digits))
        patches = covered_patches_v1(shape, y, x, size)
        labels.thing[patches] = i + 1
        if digits == 2:
            labels.second[patches] = patches % GRID * PATCH + PATCH / 2 >= x + size / 2
        row, column = (_third(c + size / 2) for c in (y, x))
        things.append(
            ThingV1(
                str(colors[i]), shape, number, ROW_NAMES[row], COLUMN_NAMES[column], i in marked, (y, x, size), patches
            )
        )
    for i in marked:
        mark = mark_patches(things[i].box)
        labels.mark[mark] = 1
        labels.thing[mark] = i + 1
    left = TEXTURES[rng.integers(4)]
    right = left if rng.random() < 0.5 else str(rng.choice([t for t in TEXTURES if t != left]))
    return things, (left, right), labels


def _place(sizes: list[int], rng: np.random.Generator) -> list[tuple[int, int, int]]:
    """Boxes (y, x, size) that neither touch each other nor have their centre near a line between thirds of the canvas; a shape without room is left out."""
    boxes: list[tuple[int, int, int]] = []
    for size in sizes:
        for _ in range(60):
            y, x = (int(c) for c in rng.integers(4, CANVAS - size - 4, 2))
            apart = all(max(y - v - s, v - y - size, x - u - s, u - x - size) >= 5 for v, u, s in boxes)
            clear = all(abs(c + size / 2 - line) >= 5 for c in (y, x) for line in (CANVAS / 3, 2 * CANVAS / 3))
            if apart and clear:
                boxes.append((y, x, size))
                break
    return boxes


def _third(center: float) -> int:
    return min(2, int(center * 3 / CANVAS))
