"""Procedural scenes with questions: the data of the embedded backbone, made on the fly and never downloaded.

A scene is a 192 x 192 picture: coloured shapes that carry real handwritten numbers (scikit-learn's bundled digits) lie on a background whose
left and right half have a texture each; grey clutter lies between them and is never asked about; one shape wears a small mark. Every
question names the patches that its answer rests on, so that an oracle can keep them first.

A scene is a function of (seed, split, index) alone; handwriting of train, validation and test is disjoint.
Write a folder in LLaVA-Instruct format with ``python -m learnpruner.data.scenes OUT --split train --count 1000``.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

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
ROWS, COLUMNS = ("top", "middle", "bottom"), ("left", "center", "right")
SIDES = ("left", "right")
KINDS = ("existence", "attribute", "relation", "reading", "counting", "position", "background")

OBJECTS = (3, 8)
CROWD = (
    14,
    22,
)  # shapes in a crowded scene: more labels a picture for the vision tower's pre-training, colours repeat, no questions
SIZES = ((20, 25), (28, 35), (44, 61))  # pixels a side: about 9, 16 and more than 36 patches
SIZE_SHARES = (0.6, 0.25, 0.15)
TWO_DIGITS_FROM = 36  # pixels a side: smaller shapes have room for one digit
MARK = 10  # pixels a side
RIGHT_HALF = np.arange(GRID * GRID) % GRID >= GRID // 2  # (576,): which patches lie right of the middle
COVERED = 0.2  # a patch belongs to a shape that covers at least this share of it


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
class Question:
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
    questions: list[Question]


def make_scene(
    split: str,
    index: int,
    seed: int = 0,
    questions: int = 8,
    render: bool = True,
    crowded: bool = False,
    kinds: Sequence[str] = KINDS,
) -> Scene:
    """The scene number ``index`` of a split with that many questions of random kinds.

    ``render=False`` skips the pixels (same layout and questions); ``crowded`` scenes hold CROWD shapes and take no questions.
    A kind that stands in ``kinds`` twice is asked twice as often.
    """
    if crowded and questions:
        raise ValueError(f"questions is {questions}; a crowded scene repeats colours, so ask questions=0 of it.")
    layout, brush = _generators(split, index, seed)
    things, background, labels = _layout(layout, crowded)
    image = _paint(things, background, split, brush) if render else None
    scene = Scene(image, things, background, labels, [])
    while len(scene.questions) < questions:
        kind = kinds[int(layout.integers(len(kinds)))]
        scene.questions.append(ASK[kind](scene, layout))
    return scene


def benchmark_sample(split: str, index: int, seed: int = 0) -> tuple[np.ndarray, Question]:
    """Scene ``index`` with one question; kinds take turns, so that every prefix of the benchmark is balanced."""
    scene = make_scene(split, index, seed, questions=0)
    ask = np.random.default_rng([seed, SPLITS.index(split), index, 2])
    assert scene.image is not None
    return scene.image, ASK[KINDS[index % len(KINDS)]](scene, ask)


def _generators(split: str, index: int, seed: int) -> tuple[np.random.Generator, np.random.Generator]:
    if split not in SPLITS:
        raise ValueError(f"split is {split!r}; it must be one of {', '.join(SPLITS)}.")
    key = [seed, SPLITS.index(split), index]
    return np.random.default_rng([*key, 0]), np.random.default_rng([*key, 1])


# ---------------------------------------------------------------------------------------------------------------- layout


def _layout(rng: np.random.Generator, crowded: bool) -> tuple[list[Thing], tuple[str, str], PatchLabels]:
    low, high = CROWD if crowded else OBJECTS
    count = int(rng.integers(low, high + 1))
    sizes = sorted((int(rng.integers(*SIZES[rng.choice(3, p=SIZE_SHARES)])) for _ in range(count)), reverse=True)
    boxes = _place(sizes, rng)
    colors = np.concatenate([rng.permutation(COLOR_NAMES) for _ in range(3)])[: len(boxes)]
    marked = rng.permutation(len(boxes))[: 1 + len(boxes) // 8 * crowded]
    labels = PatchLabels(*(np.zeros(GRID * GRID, dtype=np.int64) for _ in range(3)))
    things = []
    for i, (y, x, size) in enumerate(boxes):
        shape = SHAPES[rng.integers(len(SHAPES))]
        digits = 1 + int(size >= TWO_DIGITS_FROM and rng.random() < 0.6)
        number = " ".join(str(d) for d in rng.integers(0, 10, digits))
        patches = _covered_patches(shape, y, x, size)
        labels.thing[patches] = i + 1
        if digits == 2:
            labels.second[patches] = patches % GRID * PATCH + PATCH / 2 >= x + size / 2
        row, column = (_third(c + size / 2) for c in (y, x))
        things.append(
            Thing(str(colors[i]), shape, number, ROWS[row], COLUMNS[column], i in marked, (y, x, size), patches)
        )
    for i in marked:
        mark = _mark_patches(things[i].box)
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


@lru_cache(maxsize=512)
def _outline(shape: str, size: int) -> np.ndarray:
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


def _covered_patches(shape: str, y: int, x: int, size: int) -> np.ndarray:
    """Patches that the shape covers by at least COVERED, nearest to its centre first."""
    canvas = np.zeros((CANVAS, CANVAS), dtype=np.float32)
    canvas[y : y + size, x : x + size] = _outline(shape, size)
    share = canvas.reshape(GRID, PATCH, GRID, PATCH).mean((1, 3)).ravel()
    patches = np.flatnonzero(share >= COVERED)
    rows, columns = patches // GRID * PATCH + PATCH / 2, patches % GRID * PATCH + PATCH / 2
    distance = (rows - y - size / 2) ** 2 + (columns - x - size / 2) ** 2
    return patches[np.argsort(distance, kind="stable")]


def _mark_corner(box: tuple[int, int, int]) -> tuple[int, int]:
    y, x, size = box
    return y - 4, x + size - 6


def _mark_patches(box: tuple[int, int, int]) -> np.ndarray:
    """Patches of which the mark covers a fifth or more."""
    canvas = np.zeros((CANVAS, CANVAS), dtype=np.float32)
    y, x = _mark_corner(box)
    canvas[y : y + MARK, x : x + MARK] = 1
    share = canvas.reshape(GRID, PATCH, GRID, PATCH).mean((1, 3)).ravel()
    return np.flatnonzero(share >= COVERED)


# ---------------------------------------------------------------------------------------------------------------- pixels


@lru_cache(maxsize=1)
def _handwriting() -> dict[str, list[np.ndarray]]:
    """For each split and digit the pictures (n, 16, 12) in [0, 1]; 60 % train, 20 % validation, 20 % test."""
    from sklearn.datasets import load_digits

    data = load_digits()
    order = np.random.default_rng(0).permutation(len(data.target))
    cuts = (int(0.6 * len(order)), int(0.8 * len(order)))
    large = np.kron(data.images / 16.0, np.ones((2, 2)))[:, :, 2:14].astype(np.float32)
    return {
        split: [large[part][data.target[part] == digit] for digit in range(10)]
        for split, part in zip(SPLITS, np.split(order, cuts), strict=True)
    }


def _texture(name: str, height: int, width: int, rng: np.random.Generator) -> np.ndarray:
    """(height, width) bool: where the second colour of a texture lies."""
    y, x = np.mgrid[0:height, 0:width]
    period, phase, slant = int(rng.integers(7, 13)), int(rng.integers(13)), int(rng.integers(2))
    if name == "stripes":
        return (y * slant + x + phase) // (period // 2) % 2 == 0
    if name == "dots":
        return ((y + phase) % period - period / 2) ** 2 + ((x + phase) % period - period / 2) ** 2 < (period / 3) ** 2
    if name == "checks":
        return (y // period + x // period) % 2 == 0
    return np.zeros((height, width), dtype=bool)


def _paint(things: list[Thing], background: tuple[str, str], split: str, rng: np.random.Generator) -> np.ndarray:
    image = np.empty((CANVAS, CANVAS, 3), dtype=np.float32)
    half = CANVAS // 2
    for side, name in enumerate(background):
        base = rng.uniform(60, 200) + rng.uniform(-35, 35, 3)
        other = np.clip(base + rng.choice([-1, 1]) * rng.uniform(25, 60, 3), 0, 255)
        where = _texture(name, CANVAS, half, rng)[..., None]
        image[:, side * half : (side + 1) * half] = np.where(where, other, base)
    _scatter_clutter(image, things, rng)
    for thing in things:
        _paint_thing(image, thing, _handwriting()[split], rng)
    image += 8 * rng.standard_normal(image.shape, dtype=np.float32)
    return np.clip(image, 0, 255).astype(np.uint8)


def _scatter_clutter(image: np.ndarray, things: list[Thing], rng: np.random.Generator) -> None:
    """Small grey bars and blobs that no question is about; shapes are painted over them."""
    for _ in range(int(rng.integers(5, 13))):
        height, width = (int(v) for v in rng.integers(3, 12, 2))
        y, x = int(rng.integers(0, CANVAS - height)), int(rng.integers(0, CANVAS - width))
        image[y : y + height, x : x + width] = rng.choice([20, 70, 120, 235]) + rng.uniform(-15, 15)


def _paint_thing(image: np.ndarray, thing: Thing, digits: list[np.ndarray], rng: np.random.Generator) -> None:
    y, x, size = thing.box
    region = image[y : y + size, x : x + size]
    region[_outline(thing.shape, size)] = np.array(COLORS[thing.color]) + rng.normal(0, 12, 3)
    number = [int(d) for d in thing.number.split()]
    ink = 0.0 if thing.color in ("yellow", "cyan") else 255.0
    top = y + (size - 16) // 2 + (2 if thing.shape == "triangle" else 0)
    for place, digit in enumerate(number):
        left = x + (size - 12 * len(number)) // 2 + 12 * place
        glyph = digits[digit][rng.integers(len(digits[digit]))][..., None]
        spot = image[top : top + 16, left : left + 12]
        spot[:] = spot * (1 - glyph) + ink * glyph
    if thing.marked:
        y, x = _mark_corner(thing.box)
        image[y : y + MARK, x : x + MARK] = 0
        image[y + 4 : y + 6, x + 1 : x + MARK - 1] = 255
        image[y + 1 : y + MARK - 1, x + 4 : x + 6] = 255


# ------------------------------------------------------------------------------------------------------------- questions


def _pick(things: list[Thing], rng: np.random.Generator) -> Thing:
    return things[rng.integers(len(things))]


def _existence(scene: Scene, rng: np.random.Generator) -> Question:
    thing = _pick(scene.things, rng)
    color, shape, answer = thing.color, thing.shape, "yes"
    evidence = [thing.patches]
    if rng.random() < 0.5:
        answer = "no"
        absent = [c for c in COLOR_NAMES if c not in {t.color for t in scene.things}]
        if absent and rng.random() < 0.5:
            color = str(rng.choice(absent))
            evidence = [t.patches for t in scene.things]
        else:
            shape = str(rng.choice([s for s in SHAPES if s != thing.shape]))
    return Question("existence", f"is there a {color} {shape}?", answer, evidence)


def _refer(scene: Scene, thing: Thing, rng: np.random.Generator, without: str) -> tuple[str, list[np.ndarray]]:
    """Words that name one thing alone, by anything but ``without``, and the patches that show what the words say; empty where nothing else tells it apart."""
    digits = [d for t in scene.things for d in t.number.split()]
    ways = {"color": (f"the {thing.color} object", [thing.patches])}
    if sum(t.shape == thing.shape for t in scene.things) == 1:
        ways["shape"] = (f"the {thing.shape}", [thing.patches])
    if len(thing.number) == 1 and digits.count(thing.number) == 1:
        ways["number"] = (f"the number {thing.number}", [thing.patches])
    if thing.marked:
        ways["mark"] = ("the marked object", [np.flatnonzero(scene.labels.mark), thing.patches])
    ways.pop(without, None)
    if not ways:
        return "", []
    names = list(ways)
    weights = np.array([{"color": 2.0, "mark": 3.0}.get(name, 1.0) for name in names])
    return ways[names[rng.choice(len(names), p=weights / weights.sum())]]


def _pick_named(scene: Scene, rng: np.random.Generator) -> Thing:
    """Any thing; the marked one more often, since its mark is the detail that lives in few patches."""
    return next(t for t in scene.things if t.marked) if rng.random() < 0.2 else _pick(scene.things, rng)


def _attribute(scene: Scene, rng: np.random.Generator) -> Question:
    thing = _pick_named(scene, rng)
    if rng.random() < 0.6:
        words, evidence = _refer(scene, thing, rng, without="color")
        if words:
            return Question("attribute", f"what color is {words}?", thing.color, evidence)
    words, evidence = _refer(scene, thing, rng, without="shape")
    return Question("attribute", f"what shape is {words}?", thing.shape, evidence)


def _relation(scene: Scene, rng: np.random.Generator) -> Question:
    """Compares the thirds in which two shapes lie; "no" where all shapes of the scene share one third."""
    things = scene.things
    pairs = [(a, b) for a in things for b in things if a is not b]
    apart = {
        "left of": [(a, b) for a, b in pairs if COLUMNS.index(a.column) < COLUMNS.index(b.column)],
        "above": [(a, b) for a, b in pairs if ROWS.index(a.row) < ROWS.index(b.row)],
    }
    ways = [way for way, found in apart.items() if found]
    if not ways:
        a, b = pairs[rng.integers(len(pairs))]
        text = f"is the {a.color} object left of the {b.color} object?"
        return Question("relation", text, "no", [a.patches, b.patches])
    way = ways[rng.integers(len(ways))]
    a, b = apart[way][rng.integers(len(apart[way]))]
    answer = "yes"
    if rng.random() < 0.5:
        a, b, answer = b, a, "no"
    return Question("relation", f"is the {a.color} object {way} the {b.color} object?", answer, [a.patches, b.patches])


def _reading(scene: Scene, rng: np.random.Generator) -> Question:
    double = [t for t in scene.things if len(t.number) > 1]
    thing = _pick(double, rng) if double and rng.random() < 0.4 else _pick_named(scene, rng)
    if len(thing.number) == 1:
        words, evidence = _refer(scene, thing, rng, without="number")
    else:
        second = scene.labels.second[thing.patches] == 1
        words, evidence = f"the {thing.color} object", [thing.patches[~second], thing.patches[second]]
    return Question("reading", f"what number is on {words}?", thing.number, evidence)


def _counting(scene: Scene, rng: np.random.Generator) -> Question:
    if rng.random() < 0.5:
        return Question(
            "counting", "how many objects are there?", str(len(scene.things)), [t.patches for t in scene.things]
        )
    shape = _pick(scene.things, rng).shape if rng.random() < 0.85 else SHAPES[rng.integers(len(SHAPES))]
    asked = [t.patches for t in scene.things if t.shape == shape]
    return Question(
        "counting", f"how many {shape}s are there?", str(len(asked)), asked or [t.patches for t in scene.things]
    )


def _position(scene: Scene, rng: np.random.Generator) -> Question:
    thing = _pick_named(scene, rng)
    words, evidence = _refer(scene, thing, rng, without="")
    return Question("position", f"where is {words}?", f"{thing.row} {thing.column}", evidence)


def _background(scene: Scene, rng: np.random.Generator) -> Question:
    column = np.arange(GRID * GRID) % GRID
    free = (scene.labels.thing == 0) & (np.abs(column - (GRID - 1) / 2) > 1)
    sides = [np.flatnonzero(free & ~RIGHT_HALF), np.flatnonzero(free & RIGHT_HALF)]
    sides = [rng.permutation(side) for side in sides]
    if rng.random() < 0.35:
        answer = "yes" if scene.background[0] == scene.background[1] else "no"
        return Question("background", "is the background the same on both sides?", answer, sides)
    side = int(rng.integers(2))
    text = f"what is the background on the {SIDES[side]}?"
    return Question("background", text, scene.background[side], [sides[side]])


ASK: dict[str, Callable[[Scene, np.random.Generator], Question]] = {
    "existence": _existence,
    "attribute": _attribute,
    "relation": _relation,
    "reading": _reading,
    "counting": _counting,
    "position": _position,
    "background": _background,
}


# ---------------------------------------------------------------------------------------------------------------- folder


def write_folder(out: Path, split: str, count: int, seed: int = 0, questions: int = 8) -> Path:
    """Writes ``out/{split}.json`` (LLaVA-Instruct records: id, image, conversations) and ``out/images/*.png``; returns the JSON's path."""
    from PIL import Image

    (out / "images").mkdir(parents=True, exist_ok=True)
    records = []
    for index in range(count):
        scene = make_scene(split, index, seed, questions)
        name = f"images/{split}-{index:06d}.png"
        assert scene.image is not None
        Image.fromarray(scene.image).save(out / name)
        turns = []
        for turn, question in enumerate(scene.questions):
            turns.append({"from": "human", "value": ("<image>\n" if turn == 0 else "") + question.text})
            turns.append({"from": "gpt", "value": question.answer})
        records.append({"id": f"{split}-{index:06d}", "image": name, "conversations": turns})
    path = out / f"{split}.json"
    path.write_text(json.dumps(records, indent=1))
    return path


def main() -> None:
    parser = argparse.ArgumentParser(description="Write procedural scenes as a folder in LLaVA-Instruct JSON format.")
    parser.add_argument("out", type=Path)
    parser.add_argument("--split", choices=SPLITS, default="train")
    parser.add_argument("--count", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--questions", type=int, default=8, help="questions a scene")
    options = parser.parse_args()
    if options.count < 1 or options.questions < 1:
        parser.error(f"--count is {options.count} and --questions {options.questions}; both must be at least 1.")
    path = write_folder(options.out, options.split, options.count, options.seed, options.questions)
    print(f"wrote {options.count} scenes of split {options.split} to {path}")


if __name__ == "__main__":
    main()
