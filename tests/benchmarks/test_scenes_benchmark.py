"""The embedded benchmark is deterministic, balanced in every prefix, and held out."""

import numpy as np
import pytest

from learnpruner.benchmarks.scenes import ScenesBenchmark
from learnpruner.data.datamodule import SceneSource
from learnpruner.data.scenes import make_scene
from learnpruner.utils.errors import UserError


def test_a_sample_can_be_made_alone_and_again():
    first, again = ScenesBenchmark()[5], ScenesBenchmark()[5]
    np.testing.assert_array_equal(np.asarray(first.image), np.asarray(again.image))
    assert (first.question, first.answer, first.kind, first.scene) == (
        again.question, again.answer, again.kind, again.scene
    )  # fmt: skip


def test_kinds_take_turns():
    benchmark = ScenesBenchmark()
    kinds = len(benchmark.kinds)
    assert tuple(benchmark[i].kind for i in range(kinds)) == benchmark.kinds
    assert benchmark[kinds].kind == benchmark.kinds[0]


def test_splits_and_seeds_differ():
    pictures = [
        np.asarray(b[0].image)
        for b in (ScenesBenchmark(), ScenesBenchmark(seed=1), ScenesBenchmark(split="validation"))
    ]
    assert not any(np.array_equal(pictures[i], pictures[j]) for i, j in [(0, 1), (0, 2), (1, 2)])


def test_it_ends():
    benchmark = ScenesBenchmark(size=3)
    assert len(benchmark) == 3
    with pytest.raises(IndexError):
        benchmark[3]


def test_editions_and_styles_are_other_scenes_and_what_there_is_not_is_named():
    first, second = ScenesBenchmark(edition=1)[3], ScenesBenchmark(edition=2)[3]
    shifted = ScenesBenchmark(edition=2, style="shifted")[3]
    assert not np.array_equal(np.asarray(first.image), np.asarray(second.image))
    assert not np.array_equal(np.asarray(second.image), np.asarray(shifted.image))
    assert second.kind == shifted.kind == ScenesBenchmark.kinds[3]
    for bad, said in (
        ({"edition": 3}, "edition is 3; it must be 1"),
        ({"edition": True}, "edition is True; it must be 1"),
        ({"edition": 2, "style": "dark"}, "style is 'dark'; it must be one of benchmark"),
        ({"edition": 1, "style": "shifted"}, "scenes of edition 1 have the style benchmark only"),
    ):
        with pytest.raises(UserError, match=said):
            ScenesBenchmark(**bad)


def test_the_source_of_an_edition_holds_out_scenes_of_the_same():
    source = SceneSource(edition=2)
    held = source.held_out(5)
    assert (held.edition, held.split) == (2, "validation")
    scene = make_scene("train", 4)
    sample = source.sample(4)
    np.testing.assert_array_equal(np.asarray(sample.image), scene.image)
    assert sample.turns == [(one.text, one.answer) for one in scene.questions]
