"""The embedded benchmark is deterministic, balanced in every prefix, and held out."""

import numpy as np
import pytest

from learnpruner.benchmarks.scenes import ScenesBenchmark


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
