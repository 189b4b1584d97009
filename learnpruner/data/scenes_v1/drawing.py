"""Pixels: textures, clutter, shapes with their handwritten numbers, the mark, noise."""

from __future__ import annotations

import numpy as np

from learnpruner.data.scenes.drawing import handwritten_digits, texture_mask
from learnpruner.data.scenes.parts import CANVAS, COLORS
from learnpruner.data.scenes.shapes import MARK_SIZE
from learnpruner.data.scenes_v1.parts import ThingV1
from learnpruner.data.scenes_v1.shapes import mark_corner, shape_mask_v1


def paint_scene_v1(
    things: list[ThingV1], background: tuple[str, str], split: str, rng: np.random.Generator
) -> np.ndarray:
    """Draw a scene: (192, 192, 3) uint8."""
    image = np.empty((CANVAS, CANVAS, 3), dtype=np.float32)
    half = CANVAS // 2
    for side, name in enumerate(background):
        base = rng.uniform(60, 200) + rng.uniform(-35, 35, 3)
        other = np.clip(base + rng.choice([-1, 1]) * rng.uniform(25, 60, 3), 0, 255)
        where = texture_mask(name, CANVAS, half, rng)[..., None]
        image[:, side * half : (side + 1) * half] = np.where(where, other, base)
    _scatter_clutter(image, things, rng)
    for thing in things:
        _paint_thing(image, thing, handwritten_digits()[split], rng)
    image += 8 * rng.standard_normal(image.shape, dtype=np.float32)
    return np.clip(image, 0, 255).astype(np.uint8)


def _scatter_clutter(image: np.ndarray, things: list[ThingV1], rng: np.random.Generator) -> None:
    """Small grey bars and blobs that no question is about; shapes are painted over them."""
    for _ in range(int(rng.integers(5, 13))):
        height, width = (int(v) for v in rng.integers(3, 12, 2))
        y, x = int(rng.integers(0, CANVAS - height)), int(rng.integers(0, CANVAS - width))
        image[y : y + height, x : x + width] = rng.choice([20, 70, 120, 235]) + rng.uniform(-15, 15)


def _paint_thing(image: np.ndarray, thing: ThingV1, digits: list[np.ndarray], rng: np.random.Generator) -> None:
    y, x, size = thing.box
    region = image[y : y + size, x : x + size]
    region[shape_mask_v1(thing.shape, size)] = np.array(COLORS[thing.color]) + rng.normal(0, 12, 3)
    number = [int(d) for d in thing.number.split()]
    ink = 0.0 if thing.color in ("yellow", "cyan") else 255.0
    top = y + (size - 16) // 2 + (2 if thing.shape == "triangle" else 0)
    for place, digit in enumerate(number):
        left = x + (size - 12 * len(number)) // 2 + 12 * place
        glyph = digits[digit][rng.integers(len(digits[digit]))][..., None]
        spot = image[top : top + 16, left : left + 12]
        spot[:] = spot * (1 - glyph) + ink * glyph
    if thing.marked:
        y, x = mark_corner(thing.box)
        image[y : y + MARK_SIZE, x : x + MARK_SIZE] = 0
        image[y + 4 : y + 6, x + 1 : x + MARK_SIZE - 1] = 255
        image[y + 1 : y + MARK_SIZE - 1, x + 4 : x + 6] = 255
