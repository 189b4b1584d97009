"""Scenes by number."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from learnpruner.data.scenes.drawing import paint_scene
from learnpruner.data.scenes.layout import BENCHMARK_STYLE, CROWDED_STYLE, SHIFTED_STYLE, arrange_scene
from learnpruner.data.scenes.parts import QUESTION_KINDS, SPLITS, Scene, SceneQuestion
from learnpruner.data.scenes.questions import QUESTION_MAKERS
from learnpruner.utils.errors import UserError

SCENE_STYLES = {"benchmark": BENCHMARK_STYLE, "crowded": CROWDED_STYLE, "shifted": SHIFTED_STYLE}


def make_scene(
    split: str,
    index: int,
    seed: int = 0,
    questions: int = 8,
    render: bool = True,
    style: str = "benchmark",
    kinds: Sequence[str] = QUESTION_KINDS,
) -> Scene:
    """The scene number ``index`` of a split with that many questions of random kinds.

    ``render=False`` skips the pixels (same layout and questions). ``style``: "benchmark", "crowded" (for the tower's training) or
    "shifted" (other sizes, counts, textures and light). A kind that stands in ``kinds`` twice is asked twice as often.
    """
    rng, brush = scene_generators(split, index, seed)
    layout = arrange_scene(rng, SCENE_STYLES[style])
    image = paint_scene(layout, split, brush, shifted=style == "shifted") if render else None
    scene = Scene(image, layout.things, layout.background, layout.labels, [])
    while len(scene.questions) < questions:
        kind = kinds[int(rng.integers(len(kinds)))]
        scene.questions.append(QUESTION_MAKERS[kind](scene, rng))
    return scene


def benchmark_sample(
    split: str, index: int, seed: int = 0, style: str = "benchmark"
) -> tuple[np.ndarray, SceneQuestion]:
    """Scene ``index`` with one question; kinds take turns, so that every prefix of the benchmark is balanced."""
    scene = make_scene(split, index, seed, questions=0, style=style)
    ask = np.random.default_rng([seed, SPLITS.index(split), index, 2])
    assert scene.image is not None
    return scene.image, QUESTION_MAKERS[QUESTION_KINDS[index % len(QUESTION_KINDS)]](scene, ask)


def scene_generators(split: str, index: int, seed: int) -> tuple[np.random.Generator, np.random.Generator]:
    """Make the generators of a scene: one for its layout and questions, one for its pixels.

    Raises:
        UserError: names the splits that there are.
    """
    if split not in SPLITS:
        raise UserError(f"split is {split!r}; it must be one of {', '.join(SPLITS)}.")
    key = [seed, SPLITS.index(split), index]
    return np.random.default_rng([*key, 0]), np.random.default_rng([*key, 1])
