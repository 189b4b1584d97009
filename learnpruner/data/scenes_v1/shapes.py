"""Outlines of shapes and of the mark, and the patches that they cover."""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from learnpruner.data.scenes.parts import CANVAS, GRID, PATCH
from learnpruner.data.scenes.shapes import MARK_SIZE

_COVERED = 0.2  # a patch belongs to a shape that covers at least this share of it


@lru_cache(maxsize=512)
def shape_mask_v1(shape: str, size: int) -> np.ndarray:
    """(size, size) bool."""
    y, x = np.mgrid[0:size, 0:size]
    middle = (size - 1) / 2
    if shape == "square":
        return np.ones((size, size), dtype=bool)
    if shape == "circle":
        return (y - middle) ** 2 + (x - middle) ** 2 <= (size / 2) ** 2
    if shape == "diamond":
        return np.abs(y - middle) + np.abs(x - middle) <= size / 2 + 1
    return np.abs(x - middle) <= (y + 1) / 2 + 1


def covered_patches_v1(shape: str, y: int, x: int, size: int) -> np.ndarray:
    """Patches that the shape covers by at least COVERED, nearest to its centre first."""
    canvas = np.zeros((CANVAS, CANVAS), dtype=np.float32)
    canvas[y : y + size, x : x + size] = shape_mask_v1(shape, size)
    share = canvas.reshape(GRID, PATCH, GRID, PATCH).mean((1, 3)).ravel()
    patches = np.flatnonzero(share >= _COVERED)
    rows, columns = patches // GRID * PATCH + PATCH / 2, patches % GRID * PATCH + PATCH / 2
    distance = (rows - y - size / 2) ** 2 + (columns - x - size / 2) ** 2
    return patches[np.argsort(distance, kind="stable")]


def mark_corner(box: tuple[int, int, int]) -> tuple[int, int]:
    """Upper left corner (row, column) of the number on a shape in a box (top, left, size)."""
    y, x, size = box
    return y - 4, x + size - 6


def mark_patches(box: tuple[int, int, int]) -> np.ndarray:
    """Patches of which the mark covers a fifth or more."""
    canvas = np.zeros((CANVAS, CANVAS), dtype=np.float32)
    y, x = mark_corner(box)
    canvas[y : y + MARK_SIZE, x : x + MARK_SIZE] = 1
    share = canvas.reshape(GRID, PATCH, GRID, PATCH).mean((1, 3)).ravel()
    return np.flatnonzero(share >= _COVERED)
