"""The first edition of the scenes, kept as it was so that its results can be made again: shapes that carry numbers themselves, no look-alikes.

Every patch of a shape tells all about it, so that one token a shape answers everything; learnpruner/data/scenes says what became of that.
"""

from learnpruner.data.scenes_v1.dataset import benchmark_sample_v1, make_scene_v1
from learnpruner.data.scenes_v1.parts import PatchLabelsV1, SceneV1, ThingV1

__all__ = ["PatchLabelsV1", "SceneV1", "ThingV1", "benchmark_sample_v1", "make_scene_v1"]
