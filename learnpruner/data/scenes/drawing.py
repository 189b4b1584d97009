"""Pixels: textures, light, clutter, shapes, plates with handwritten numbers, the mark, noise."""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from learnpruner.data.digits import bundled_digits
from learnpruner.data.scenes.layout import DIGIT_CELL, Layout
from learnpruner.data.scenes.parts import CANVAS, COLOR_NAMES, COLORS, PATCH, SPLITS, Scrap, Thing
from learnpruner.data.scenes.shapes import MARK_SIZE, mark_box, shape_mask

_GREYS = (15, 60, 200, 245)
_DARK_INK = ("yellow", "cyan", "orange", "pink")


@lru_cache(maxsize=1)
def handwritten_digits() -> dict[str, list[np.ndarray]]:
    """For each split and digit the pictures (n, 16, 12) in [0, 1]; 60 % train, 20 % validation, 20 % test."""
    images, shown = bundled_digits()
    order = np.random.default_rng(0).permutation(len(shown))
    cuts = (int(0.6 * len(order)), int(0.8 * len(order)))
    large = np.kron(images / 16.0, np.ones((2, 2)))[:, :, 2:14].astype(np.float32)
    return {
        split: [large[part][shown[part] == digit] for digit in range(10)]
        for split, part in zip(SPLITS, np.split(order, cuts), strict=True)
    }


def paint_scene(layout: Layout, split: str, rng: np.random.Generator, shifted: bool = False) -> np.ndarray:
    """Draw a scene: (192, 192, 3) uint8. ``shifted``: finer and stronger textures and light than any other scene has."""
    image = np.empty((CANVAS, CANVAS, 3), dtype=np.float32)
    half = CANVAS // 2
    for side, name in enumerate(layout.background):
        base = rng.uniform(60, 200) + rng.uniform(-35, 35, 3)
        other = np.clip(base + rng.choice([-1, 1]) * rng.uniform(25, 60, 3) * (1.3 if shifted else 1.0), 0, 255)
        where = texture_mask(name, CANVAS, half, rng, shifted)[..., None]
        image[:, side * half : (side + 1) * half] = np.where(where, other, base)
    glyphs = handwritten_digits()[split]
    for scrap in layout.scraps:
        _paint_scrap(image, scrap, glyphs, rng)
    for thing in layout.things:
        _paint_thing(image, thing, glyphs, rng)
    image *= _light(rng, 0.35 if shifted else 0.25)
    image += 8 * rng.standard_normal(image.shape, dtype=np.float32)
    return np.clip(image, 0, 255).astype(np.uint8)


def texture_mask(name: str, height: int, width: int, rng: np.random.Generator, shifted: bool = False) -> np.ndarray:
    """(height, width) bool: where the second colour of a texture lies."""
    y, x = np.mgrid[0:height, 0:width]
    low, high = (5, 8) if shifted else (7, 13)
    period, phase, slant = int(rng.integers(low, high)), int(rng.integers(13)), int(rng.integers(2))
    if name == "stripes":
        return (y * slant + x + phase) // (period // 2) % 2 == 0
    if name == "dots":
        return ((y + phase) % period - period / 2) ** 2 + ((x + phase) % period - period / 2) ** 2 < (period / 3) ** 2
    if name == "checks":
        return (y // period + x // period) % 2 == 0
    return np.zeros((height, width), dtype=bool)


def _light(rng: np.random.Generator, strength: float) -> np.ndarray:
    """(192, 192, 1): brightness that changes slowly over the picture, as a lamp and shadows make it."""
    corners = rng.uniform(1 - strength, 1 + strength, (4, 4))
    place = np.linspace(0, 3, CANVAS)
    low = np.minimum(place.astype(int), 2)
    part = place - low
    rows = corners[low] * (1 - part)[:, None] + corners[low + 1] * part[:, None]
    return (rows[:, low] * (1 - part) + rows[:, low + 1] * part)[..., None].astype(np.float32)


def _paint_scrap(image: np.ndarray, scrap: Scrap, glyphs: list[np.ndarray], rng: np.random.Generator) -> None:
    y, x, height, width = scrap.box
    if scrap.kind == "digit":
        grey = float(rng.choice(_GREYS))
        _paint_glyph(image, y, x, glyphs[scrap.value], grey, rng)
        return
    rows, columns = np.mgrid[0:height, 0:width]
    middle, wide = (height - 1) / 2, 1.6
    radius = np.hypot(rows - middle, columns - middle)
    where = {
        "stroke": np.abs(rows - columns if rng.random() < 0.5 else rows + columns - 2 * middle) < wide,
        "ring": np.abs(radius - middle + 0.5) < wide / 1.5,
        "cross": (np.abs(rows - middle) < wide / 1.5) | (np.abs(columns - middle) < wide / 1.5),
    }[scrap.kind]
    image[y : y + height, x : x + width][where] = np.array(COLORS[COLOR_NAMES[scrap.value]]) + rng.normal(0, 12, 3)


def _paint_thing(image: np.ndarray, thing: Thing, glyphs: list[np.ndarray], rng: np.random.Generator) -> None:
    y, x, height, width = thing.box
    image[y : y + height, x : x + width][shape_mask(thing.outline, height, width)] = np.array(
        COLORS[thing.color]
    ) + rng.normal(0, 12, 3)
    ink = 0.0 if thing.color in _DARK_INK else 255.0
    for place, digit in enumerate(thing.number.split()):
        _paint_glyph(image, y + PATCH // 2, x + PATCH // 2 + place * DIGIT_CELL, glyphs[int(digit)], ink, rng)
    if thing.marked:
        y, x, _, _ = mark_box(thing.box)
        image[y : y + MARK_SIZE, x : x + MARK_SIZE] = 0
        image[y + 4 : y + 6, x + 1 : x + MARK_SIZE - 1] = 255
        image[y + 1 : y + MARK_SIZE - 1, x + 4 : x + 6] = 255


def _paint_glyph(image: np.ndarray, y: int, x: int, written: np.ndarray, ink: float, rng: np.random.Generator) -> None:
    glyph = written[rng.integers(len(written))][..., None]
    spot = image[y : y + 16, x + 2 : x + 14]
    spot[:] = spot * (1 - glyph) + ink * glyph
