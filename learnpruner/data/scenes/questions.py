"""Questions of seven kinds about a scene, each with its answer and the patches that show it."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from learnpruner.data.scenes.parts import (
    COLOR_NAMES,
    COLUMN_NAMES,
    GRID,
    RIGHT_HALF,
    ROW_NAMES,
    SHAPES,
    SIDES,
    Scene,
    SceneQuestion,
    Thing,
)


def _pick(things: list[Thing], rng: np.random.Generator) -> Thing:
    return things[rng.integers(len(things))]


def _existence(scene: Scene, rng: np.random.Generator) -> SceneQuestion:
    """A "no" is a near miss where there is one: colour and outline are both there, but not on one shape."""
    thing = _pick(scene.shapes, rng)
    color, outline, answer, evidence = thing.color, thing.outline, "yes", [thing.patches]
    if rng.random() < 0.5:
        pairs = {(t.color, t.outline) for t in scene.shapes}
        missing = [(c, s) for c in COLOR_NAMES for s in SHAPES if (c, s) not in pairs]
        near = [(c, s) for c, s in missing if c in {p[0] for p in pairs} and s in {p[1] for p in pairs}]
        color, outline = near[rng.integers(len(near))] if near else missing[rng.integers(len(missing))]
        answer = "no"
        evidence = [t.patches for t in scene.shapes if t.color == color or t.outline == outline]
        evidence = evidence or [t.patches for t in scene.shapes]
    return SceneQuestion("existence", f"is there a {color} {outline}?", answer, evidence)


def _refer(scene: Scene, thing: Thing, rng: np.random.Generator, without: str = "") -> tuple[str, list[np.ndarray]]:
    """Words that name one thing alone, by anything but ``without``, and the patches that show what the words say; empty where nothing else tells it apart."""
    ways: list[tuple[str, list[np.ndarray], float]] = []
    if thing.is_plate:
        ways.append((f"the {thing.color} plate", [thing.patches], 1.0))
    else:
        same_color = sum(t.color == thing.color for t in scene.shapes)
        same_outline = sum(t.outline == thing.outline for t in scene.shapes)
        both = sum(t.color == thing.color and t.outline == thing.outline for t in scene.shapes)
        if same_color == 1 and without != "color":
            ways.append((f"the {thing.color} object", [thing.patches], 1.0))
        if same_outline == 1 and without != "outline":
            ways.append((f"the {thing.outline}", [thing.patches], 1.0))
        if both == 1 and not without:
            ways.append((f"the {thing.color} {thing.outline}", [thing.patches], 2.0))
        if thing.marked:
            ways.append(("the marked object", [np.flatnonzero(scene.labels.mark), thing.patches], 1.0))
    if not ways:
        return "", []
    weights = np.array([weight for _, _, weight in ways])
    words, evidence, _ = ways[rng.choice(len(ways), p=weights / weights.sum())]
    return words, evidence


def _referable(scene: Scene, rng: np.random.Generator, without: str = "") -> list[tuple[Thing, str, list[np.ndarray]]]:
    found = [(thing, *_refer(scene, thing, rng, without)) for thing in scene.things]
    return [one for one in found if one[1]]


def _attribute(scene: Scene, rng: np.random.Generator) -> SceneQuestion:
    asked, without = ("color", "color") if rng.random() < 0.5 else ("shape", "outline")
    ways = [way for way in _referable(scene, rng, without) if not way[0].is_plate]
    thing, words, evidence = ways[rng.integers(len(ways))]
    answer = thing.color if asked == "color" else thing.outline
    return SceneQuestion("attribute", f"what {asked} is {words}?", answer, evidence)


def _relation(scene: Scene, rng: np.random.Generator) -> SceneQuestion:
    """Compares the thirds in which two things lie; "no" where all things that can be named share one third."""
    named = _referable(scene, rng)
    pairs = [(a, b) for a in named for b in named if a[0] is not b[0]]
    apart = {
        "left of": [(a, b) for a, b in pairs if COLUMN_NAMES.index(a[0].column) < COLUMN_NAMES.index(b[0].column)],
        "above": [(a, b) for a, b in pairs if ROW_NAMES.index(a[0].row) < ROW_NAMES.index(b[0].row)],
    }
    ways = [way for way, found in apart.items() if found]
    answer = "yes"
    if not ways:
        way, (a, b), answer = "left of", pairs[rng.integers(len(pairs))], "no"
    else:
        way = ways[rng.integers(len(ways))]
        a, b = apart[way][rng.integers(len(apart[way]))]
        if rng.random() < 0.5:
            a, b, answer = b, a, "no"
    return SceneQuestion("relation", f"is {a[1]} {way} {b[1]}?", answer, [*a[2], *b[2]])


def _reading(scene: Scene, rng: np.random.Generator) -> SceneQuestion:
    plate = _pick(scene.plates, rng)
    text = f"what number is on the {plate.color} plate?"
    return SceneQuestion("reading", text, plate.number, scene.digit_patches(plate))


def _counting(scene: Scene, rng: np.random.Generator) -> SceneQuestion:
    thing = _pick(scene.shapes, rng)
    color, outline = thing.color, thing.outline
    if rng.random() < 0.15:
        color, outline = str(rng.choice(COLOR_NAMES)), SHAPES[rng.integers(len(SHAPES))]
    words, asked = [
        ("objects", scene.shapes),
        (f"{outline}s", [t for t in scene.shapes if t.outline == outline]),
        (f"{color} objects", [t for t in scene.shapes if t.color == color]),
        (f"{color} {outline}s", [t for t in scene.shapes if t.color == color and t.outline == outline]),
    ][rng.choice(4, p=(0.15, 0.3, 0.3, 0.25))]
    evidence = [t.patches for t in asked or scene.shapes]
    return SceneQuestion("counting", f"how many {words} are there?", str(len(asked)), evidence)


def _position(scene: Scene, rng: np.random.Generator) -> SceneQuestion:
    named = _referable(scene, rng)
    thing, words, evidence = named[rng.integers(len(named))]
    return SceneQuestion("position", f"where is {words}?", f"{thing.row} {thing.column}", evidence)


def _background(scene: Scene, rng: np.random.Generator) -> SceneQuestion:
    column = np.arange(GRID * GRID) % GRID
    free = scene.labels.free & (np.abs(column - (GRID - 1) / 2) > 1)
    sides = [rng.permutation(np.flatnonzero(free & half)) for half in (~RIGHT_HALF, RIGHT_HALF)]
    if rng.random() < 0.35:
        answer = "yes" if scene.background[0] == scene.background[1] else "no"
        return SceneQuestion("background", "is the background the same on both sides?", answer, sides)
    side = int(rng.integers(2))
    text = f"what is the background on the {SIDES[side]}?"
    return SceneQuestion("background", text, scene.background[side], [sides[side]])


QUESTION_MAKERS: dict[str, Callable[[Scene, np.random.Generator], SceneQuestion]] = {
    "existence": _existence,
    "attribute": _attribute,
    "relation": _relation,
    "reading": _reading,
    "counting": _counting,
    "position": _position,
    "background": _background,
}
