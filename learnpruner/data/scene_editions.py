"""Both editions of the scenes behind one call each: 2 is the benchmark of today, 1 what it was first."""

from __future__ import annotations

import numpy as np

from learnpruner.data.scenes import SCENE_STYLES, Scene, SceneQuestion, benchmark_sample, make_scene
from learnpruner.data.scenes_v1 import SceneV1, benchmark_sample_v1, make_scene_v1
from learnpruner.utils.errors import UserError

SCENE_EDITIONS = (1, 2)


def check_edition(edition: int, style: str = "benchmark") -> None:
    """Refuse an edition or a style that there is not.

    Raises:
        UserError: names both and the way out.
    """
    if isinstance(edition, bool) or edition not in SCENE_EDITIONS:
        raise UserError(f"edition is {edition!r}; it must be 1 (the first scenes) or 2 (those of today).")
    if style not in SCENE_STYLES:
        raise UserError(f"style is {style!r}; it must be one of {', '.join(SCENE_STYLES)}.")
    if edition == 1 and style != "benchmark":
        raise UserError(f"style is {style!r}; scenes of edition 1 have the style benchmark only.")


def scene_of_edition(edition: int, split: str, index: int, seed: int, questions: int) -> Scene | SceneV1:
    """Scene ``index`` with that many questions."""
    maker = make_scene_v1 if edition == 1 else make_scene
    return maker(split, index, seed, questions)


def sample_of_edition(
    edition: int, split: str, index: int, seed: int = 0, style: str = "benchmark"
) -> tuple[np.ndarray, SceneQuestion]:
    """Scene ``index`` (192, 192, 3) with one question; kinds take turns."""
    if edition == 1:
        return benchmark_sample_v1(split, index, seed)
    return benchmark_sample(split, index, seed, style)
