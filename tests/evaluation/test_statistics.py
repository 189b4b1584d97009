"""Retention is a mean of ratios; its interval equals a plain bootstrap loop and covers as often as it says."""

import numpy as np
import pytest

from learnpruner.evaluation.statistics import (
    kind_means,
    kind_sums,
    mean_of_ratios,
    resampled_sums,
    retention,
    retention_gain,
)


def sample(seed, scenes=40, kinds=3, questions=2, unpruned=0.9, pruned=0.8):
    """Scores of two models on the same questions; every scene asks several of random kinds."""
    rng = np.random.default_rng(seed)
    scene = np.repeat(np.arange(scenes), questions)
    kind = rng.integers(kinds, size=scene.size)
    draw = rng.random(scene.size)
    return (draw < pruned).astype(float), (draw < unpruned).astype(float), kind, scene


def resampled(scores, unpruned, kinds, scenes, resamples, seed=0):
    """Retention in each resample."""
    tables = [kind_sums(one, kinds, scenes) for one in (scores, unpruned)]
    return mean_of_ratios(*resampled_sums(tables, resamples, np.random.default_rng(seed)))


def test_retention_is_the_mean_of_ratios_not_the_ratio_of_means():
    kinds = np.array([0] * 10 + [1] * 10)
    unpruned = np.array([1.0] * 10 + [1.0] * 2 + [0.0] * 8)
    scores = np.array([1.0] * 5 + [0.0] * 5 + [1.0] * 2 + [0.0] * 8)
    assert retention(scores, unpruned, kinds, np.arange(20)).value == pytest.approx((0.5 + 1.0) / 2)
    assert scores.mean() / unpruned.mean() == pytest.approx(7 / 12)


def test_kinds_count_alike_however_many_samples_they_have():
    kinds = np.array([0] * 90 + [1] * 10)
    unpruned = np.ones(100)
    scores = np.concatenate([np.ones(90), np.zeros(10)])
    assert retention(scores, unpruned, kinds, np.arange(100)).value == pytest.approx(0.5)


def test_a_kind_that_the_unpruned_model_never_answers_is_left_out():
    assert mean_of_ratios(np.array([0.4, 0.3]), np.array([0.8, 0.0])) == pytest.approx(0.5)
    nothing = retention(np.zeros(4), np.zeros(4), np.array([0, 1, 0, 1]), np.arange(4))
    assert (nothing.value, nothing.low, nothing.high) == (None, None, None)


def test_a_kind_without_samples_has_no_mean():
    means = kind_means(np.array([1.0, 0.0]), np.array([0, 0]), 2)
    assert means[0] == 0.5
    assert np.isnan(means[1])


def test_resamples_equal_a_plain_loop_over_scenes():
    scores, unpruned, kinds, scenes = sample(seed=3)
    fast = resampled(scores, unpruned, kinds, scenes, resamples=50, seed=7)
    groups = scenes.max() + 1
    weights = np.random.default_rng(7).multinomial(groups, np.full(groups, 1 / groups), size=50)
    for value, counts in zip(fast, weights, strict=True):
        rows = [i for scene in range(groups) for _ in range(counts[scene]) for i in np.flatnonzero(scenes == scene)]
        ratios = []
        for kind in range(3):
            chosen = [i for i in rows if kinds[i] == kind]
            if chosen and unpruned[chosen].mean() > 0:
                ratios.append(scores[chosen].mean() / unpruned[chosen].mean())
        assert value == pytest.approx(np.mean(ratios))


def test_blocks_do_not_change_the_resamples(monkeypatch):
    whole = resampled(*sample(seed=1), resamples=100)
    monkeypatch.setattr("learnpruner.evaluation.statistics.BLOCK", 40 * 7)
    np.testing.assert_array_equal(whole, resampled(*sample(seed=1), resamples=100))


def test_the_interval_has_the_width_of_the_closed_form():
    """One kind, unpruned always right: retention is a proportion, its interval nearly the normal one."""
    samples, p = 2000, 0.8
    scores = (np.arange(samples) < p * samples).astype(float)
    kept = retention(scores, np.ones(samples), np.zeros(samples, dtype=int), np.arange(samples))
    half = 1.96 * np.sqrt(p * (1 - p) / samples)
    assert kept.value == pytest.approx(p)
    assert kept.low == pytest.approx(p - half, abs=0.1 * half)
    assert kept.high == pytest.approx(p + half, abs=0.1 * half)


def test_the_interval_covers_the_truth_nineteen_times_in_twenty():
    """Questions of one scene share their luck, so that resampling questions instead of scenes would cover far less."""
    truth, covered, trials = 0.8, 0, 200
    for trial in range(trials):
        rng = np.random.default_rng(trial)
        scores = np.repeat(rng.random(100) < truth, 4).astype(float)
        kept = retention(
            scores, np.ones(400), np.tile([0, 1, 0, 1], 100), np.repeat(np.arange(100), 4), resamples=400, seed=trial
        )
        covered += kept.low <= truth <= kept.high
    assert 0.90 <= covered / trials <= 0.99


def test_pairing_narrows_the_interval():
    """Two models that fail on the same scenes keep everything, with certainty."""
    right = (np.arange(100) % 3 > 0).astype(float)
    kept = retention(right, right, np.zeros(100, dtype=int), np.arange(100))
    assert (kept.value, kept.low, kept.high) == (1.0, 1.0, 1.0)


def retained(**settings):
    return retention(*sample(seed=5), **settings)


def gained(**settings):
    """What one plan has over another on the same questions."""
    scores, unpruned, kinds, scenes = sample(seed=5)
    return retention_gain(scores, sample(seed=6)[0], unpruned, kinds, scenes, **settings)


@pytest.mark.parametrize("found", [retained, gained])
def test_the_seed_decides_the_interval_alone_and_the_level_its_width(found):
    assert found(seed=1) == found(seed=1)
    first, second = found(seed=1), found(seed=2)
    assert first.value == second.value and (first.low, first.high) != (second.low, second.high)
    narrow, wide = found(level=0.5), found(level=0.99)
    assert narrow.value == wide.value and wide.low < narrow.low < narrow.value < narrow.high < wide.high


def test_a_gain_is_drawn_for_both_plans_at_once():
    """Each resample's difference, by the function that resamples one plan."""
    scores, unpruned, kinds, scenes = sample(seed=5)
    other = sample(seed=6)[0]
    one, two = (resampled(given, unpruned, kinds, scenes, 300, 7) for given in (scores, other))
    found = retention_gain(scores, other, unpruned, kinds, scenes, 300, 7, 0.8)
    assert found.value == pytest.approx(
        retention(scores, unpruned, kinds, scenes).value - retention(other, unpruned, kinds, scenes).value
    )
    assert [found.low, found.high] == pytest.approx(np.quantile(one - two, [0.1, 0.9]))
