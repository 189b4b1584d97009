"""What a scene of the first edition is made of."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from learnpruner.data.scenes.parts import SceneQuestion


@dataclass(frozen=True)
class ThingV1:
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
class PatchLabelsV1:
    """What each of the 576 patches shows: ``thing`` (0 is background, i + 1 is things[i]), ``second`` (it shows the second of two digits) and ``mark``."""

    thing: np.ndarray
    second: np.ndarray
    mark: np.ndarray


@dataclass(frozen=True)
class SceneV1:
    """``image`` (192, 192, 3) uint8, or None where only the layout was asked for; ``background`` is (left texture, right texture)."""

    image: np.ndarray | None
    things: list[ThingV1]
    background: tuple[str, str]
    labels: PatchLabelsV1
    questions: list[SceneQuestion]
