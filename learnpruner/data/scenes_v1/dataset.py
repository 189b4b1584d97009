"""Scenes by number."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from learnpruner.data.scenes.dataset import scene_generators
from learnpruner.data.scenes.parts import QUESTION_KINDS, SPLITS, SceneQuestion
from learnpruner.data.scenes_v1.drawing import paint_scene_v1
from learnpruner.data.scenes_v1.layout import arrange_things_v1
from learnpruner.data.scenes_v1.parts import SceneV1
from learnpruner.data.scenes_v1.questions import QUESTION_MAKERS_V1
from learnpruner.utils.errors import UserError


def make_scene_v1(
    split: str,
    index: int,
    seed: int = 0,
    questions: int = 8,
    render: bool = True,
    crowded: bool = False,
    kinds: Sequence[str] = QUESTION_KINDS,
) -> SceneV1:
    """The scene number ``index`` of a split with that many questions of random kinds.

    ``render=False`` skips the pixels (same layout and questions); ``crowded`` scenes hold CROWD shapes and take no questions.
    A kind that stands in ``kinds`` twice is asked twice as often.
    """
    if crowded and questions:
        raise UserError(f"questions is {questions}; a crowded scene repeats colours, so ask questions=0 of it.")
    layout, brush = scene_generators(split, index, seed)
    things, background, labels = arrange_things_v1(layout, crowded)
    image = paint_scene_v1(things, background, split, brush) if render else None
    scene = SceneV1(image, things, background, labels, [])
    while len(scene.questions) < questions:
        kind = kinds[int(layout.integers(len(kinds)))]
        scene.questions.append(QUESTION_MAKERS_V1[kind](scene, layout))
    return scene


def benchmark_sample_v1(split: str, index: int, seed: int = 0) -> tuple[np.ndarray, SceneQuestion]:
    """SceneV1 ``index`` with one question; kinds take turns, so that every prefix of the benchmark is balanced."""
    scene = make_scene_v1(split, index, seed, questions=0)
    ask = np.random.default_rng([seed, SPLITS.index(split), index, 2])
    assert scene.image is not None
    return scene.image, QUESTION_MAKERS_V1[QUESTION_KINDS[index % len(QUESTION_KINDS)]](scene, ask)
