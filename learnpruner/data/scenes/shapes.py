"""Outlines of shapes, plates and of the mark, and the patches that they cover."""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from learnpruner.data.scenes.parts import CANVAS, GRID, PATCH

MARK_SIZE = 10  # pixels a side
_COVERED = 0.2  # a patch belongs to a shape that covers at least this share of it

Box = tuple[int, int, int, int]  # top, left, height, width


@lru_cache(maxsize=512)
def shape_mask(outline: str, height: int, width: int) -> np.ndarray:
    """(height, width) bool."""
    y, x = np.mgrid[0:height, 0:width]
    middle = (height - 1) / 2
    if outline == "circle":
        return (y - middle) ** 2 + (x - middle) ** 2 <= (height / 2) ** 2
    if outline == "diamond":
        return np.abs(y - middle) + np.abs(x - middle) <= height / 2 + 1
    if outline == "triangle":
        return np.abs(x - middle) <= (y + 1) / 2 + 1
    return np.ones((height, width), dtype=bool)


def covered_patches(outline: str, box: Box) -> np.ndarray:
    """Patches of which the shape covers a fifth or more, nearest to its centre first."""
    y, x, height, width = box
    top, left = y // PATCH, x // PATCH
    rows, columns = -(-(y + height) // PATCH) - top, -(-(x + width) // PATCH) - left
    part = np.zeros((rows * PATCH, columns * PATCH), dtype=np.float32)
    down, across = y - top * PATCH, x - left * PATCH
    part[down : down + height, across : across + width] = shape_mask(outline, height, width)
    share = part.reshape(rows, PATCH, columns, PATCH).mean((1, 3))
    row, column = np.nonzero(share >= _COVERED)
    row, column = row + top, column + left
    inside = (row >= 0) & (row < GRID) & (column >= 0) & (column < GRID)
    row, column = row[inside], column[inside]
    distance = (row * PATCH + PATCH / 2 - y - height / 2) ** 2 + (column * PATCH + PATCH / 2 - x - width / 2) ** 2
    return (row * GRID + column)[np.argsort(distance, kind="stable")]


def rectangle_patches(box: Box) -> np.ndarray:
    """Patches of which a rectangle covers a fifth or more, in raster order."""
    sides = []
    for start, length in ((box[0], box[2]), (box[1], box[3])):
        lines = range(start // PATCH, min(GRID, -(-(start + length) // PATCH)))
        sides.append([(i, min(start + length, (i + 1) * PATCH) - max(start, i * PATCH)) for i in lines])
    least = _COVERED * PATCH * PATCH
    return np.array([i * GRID + j for i, a in sides[0] for j, b in sides[1] if a * b >= least], dtype=np.int64)


def mark_box(box: Box) -> Box:
    """The mark's box at the upper right corner of a shape in this box."""
    y, x, _, width = box
    return max(0, y - 4), min(CANVAS - MARK_SIZE, x + width - 6), MARK_SIZE, MARK_SIZE
