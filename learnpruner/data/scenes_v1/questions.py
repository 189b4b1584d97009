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
    SceneQuestion,
)
from learnpruner.data.scenes_v1.parts import SceneV1, ThingV1


def _pick(things: list[ThingV1], rng: np.random.Generator) -> ThingV1:
    return things[rng.integers(len(things))]


def _existence(scene: SceneV1, rng: np.random.Generator) -> SceneQuestion:
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
    return SceneQuestion("existence", f"is there a {color} {shape}?", answer, evidence)


def _refer(scene: SceneV1, thing: ThingV1, rng: np.random.Generator, without: str) -> tuple[str, list[np.ndarray]]:
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


def _pick_named(scene: SceneV1, rng: np.random.Generator) -> ThingV1:
    """Any thing; the marked one more often, since its mark is the detail that lives in few patches."""
    return next(t for t in scene.things if t.marked) if rng.random() < 0.2 else _pick(scene.things, rng)


def _attribute(scene: SceneV1, rng: np.random.Generator) -> SceneQuestion:
    thing = _pick_named(scene, rng)
    if rng.random() < 0.6:
        words, evidence = _refer(scene, thing, rng, without="color")
        if words:
            return SceneQuestion("attribute", f"what color is {words}?", thing.color, evidence)
    words, evidence = _refer(scene, thing, rng, without="shape")
    return SceneQuestion("attribute", f"what shape is {words}?", thing.shape, evidence)


def _relation(scene: SceneV1, rng: np.random.Generator) -> SceneQuestion:
    """Compares the thirds in which two shapes lie; "no" where all shapes of the scene share one third."""
    things = scene.things
    pairs = [(a, b) for a in things for b in things if a is not b]
    apart = {
        "left of": [(a, b) for a, b in pairs if COLUMN_NAMES.index(a.column) < COLUMN_NAMES.index(b.column)],
        "above": [(a, b) for a, b in pairs if ROW_NAMES.index(a.row) < ROW_NAMES.index(b.row)],
    }
    ways = [way for way, found in apart.items() if found]
    if not ways:
        a, b = pairs[rng.integers(len(pairs))]
        text = f"is the {a.color} object left of the {b.color} object?"
        return SceneQuestion("relation", text, "no", [a.patches, b.patches])
    way = ways[rng.integers(len(ways))]
    a, b = apart[way][rng.integers(len(apart[way]))]
    answer = "yes"
    if rng.random() < 0.5:
        a, b, answer = b, a, "no"
    return SceneQuestion(
        "relation", f"is the {a.color} object {way} the {b.color} object?", answer, [a.patches, b.patches]
    )


def _reading(scene: SceneV1, rng: np.random.Generator) -> SceneQuestion:
    double = [t for t in scene.things if len(t.number) > 1]
    thing = _pick(double, rng) if double and rng.random() < 0.4 else _pick_named(scene, rng)
    if len(thing.number) == 1:
        words, evidence = _refer(scene, thing, rng, without="number")
    else:
        second = scene.labels.second[thing.patches] == 1
        words, evidence = f"the {thing.color} object", [thing.patches[~second], thing.patches[second]]
    return SceneQuestion("reading", f"what number is on {words}?", thing.number, evidence)


def _counting(scene: SceneV1, rng: np.random.Generator) -> SceneQuestion:
    if rng.random() < 0.5:
        return SceneQuestion(
            "counting", "how many objects are there?", str(len(scene.things)), [t.patches for t in scene.things]
        )
    shape = _pick(scene.things, rng).shape if rng.random() < 0.85 else SHAPES[rng.integers(len(SHAPES))]
    asked = [t.patches for t in scene.things if t.shape == shape]
    return SceneQuestion(
        "counting", f"how many {shape}s are there?", str(len(asked)), asked or [t.patches for t in scene.things]
    )


def _position(scene: SceneV1, rng: np.random.Generator) -> SceneQuestion:
    thing = _pick_named(scene, rng)
    words, evidence = _refer(scene, thing, rng, without="")
    return SceneQuestion("position", f"where is {words}?", f"{thing.row} {thing.column}", evidence)


def _background(scene: SceneV1, rng: np.random.Generator) -> SceneQuestion:
    column = np.arange(GRID * GRID) % GRID
    free = (scene.labels.thing == 0) & (np.abs(column - (GRID - 1) / 2) > 1)
    sides = [np.flatnonzero(free & ~RIGHT_HALF), np.flatnonzero(free & RIGHT_HALF)]
    sides = [rng.permutation(side) for side in sides]
    if rng.random() < 0.35:
        answer = "yes" if scene.background[0] == scene.background[1] else "no"
        return SceneQuestion("background", "is the background the same on both sides?", answer, sides)
    side = int(rng.integers(2))
    text = f"what is the background on the {SIDES[side]}?"
    return SceneQuestion("background", text, scene.background[side], [sides[side]])


QUESTION_MAKERS_V1: dict[str, Callable[[SceneV1, np.random.Generator], SceneQuestion]] = {
    "existence": _existence,
    "attribute": _attribute,
    "relation": _relation,
    "reading": _reading,
    "counting": _counting,
    "position": _position,
    "background": _background,
}
