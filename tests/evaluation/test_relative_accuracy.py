"""RelAcc is the mean of ratios; its interval is that of a plain paired bootstrap."""

import numpy as np
import pytest

from learnpruner.benchmarks.public import PublicBenchmark
from learnpruner.evaluation.statistics import relative_accuracy, resampled_sums


class Accuracy(PublicBenchmark):
    """The default score, percent right, without a dataset."""

    def __init__(self):
        pass

    def example(self, row):
        raise NotImplementedError


def table(*right):
    """Units of two questions each: (G, 2)."""
    return np.array([[float(one), 2.0] for one in right])


BOTH = {"a": Accuracy(), "b": Accuracy()}
UNPRUNED = {"a": table(2, 2, 2, 2), "b": table(1, 0, 1, 0)}
OWN = {"a": table(2, 1, 1, 2), "b": table(1, 0, 0, 0)}


def test_it_is_the_mean_of_ratios_not_the_ratio_of_means():
    assert relative_accuracy(BOTH, OWN, UNPRUNED).value == pytest.approx((6 / 8 + 1 / 2) / 2)


def test_equal_answers_keep_everything_in_every_resample():
    found = relative_accuracy(BOTH, UNPRUNED, UNPRUNED)
    assert (found.value, found.low, found.high) == (1.0, 1.0, 1.0)


def test_a_benchmark_without_any_unpruned_score_is_left_out():
    nothing = {**UNPRUNED, "b": table(0, 0, 0, 0)}
    assert relative_accuracy(BOTH, OWN, nothing).value == pytest.approx(6 / 8)
    assert relative_accuracy({"b": Accuracy()}, OWN, nothing).value is None


def test_a_resample_draws_both_models_answers_to_the_same_units():
    rng = np.random.default_rng(3)
    own, unpruned = map(BOTH["a"].value, resampled_sums([OWN["a"], UNPRUNED["a"]], 50, rng))
    again = np.random.default_rng(3).multinomial(4, np.full(4, 0.25), size=50)
    for i, weights in enumerate(again):
        units = np.repeat(np.arange(4), weights)
        assert own[i] == pytest.approx(100 * OWN["a"][units, 0].sum() / OWN["a"][units, 1].sum())
        assert unpruned[i] == pytest.approx(100)


def test_the_interval_covers_the_value_and_narrows_with_the_data():
    rng = np.random.default_rng(0)
    widths = []
    for units in (50, 5000):
        before = table(*rng.integers(0, 3, units))
        own = np.stack([np.minimum(before[:, 0], rng.integers(0, 3, units)), before[:, 1]], -1)
        found = relative_accuracy({"a": Accuracy()}, {"a": own}, {"a": before})
        assert found.low < found.value < found.high
        widths.append(found.high - found.low)
    assert widths[1] < widths[0] / 5


@pytest.fixture
def many():
    """Two benchmarks of 60 and 45 units, on which draws hardly ever repeat: what a plan and the unpruned model have right."""
    rng, own, unpruned = np.random.default_rng(1), {}, {}
    for name, units in (("a", 60), ("b", 45)):
        unpruned[name] = table(*rng.integers(0, 3, units))
        own[name] = np.stack([np.minimum(unpruned[name][:, 0], rng.integers(0, 3, units)), unpruned[name][:, 1]], -1)
    return own, unpruned


def test_the_seed_decides_the_resamples_and_the_level_the_width(many):
    def found(**settings):
        return relative_accuracy(BOTH, *many, resamples=300, **settings)

    assert found(seed=1) == found(seed=1)
    first, second = found(seed=1), found(seed=2)
    assert first.value == second.value and (first.low, first.high) != (second.low, second.high)
    assert found(level=0.5).low > found(level=0.9).low and found(level=0.5).high < found(level=0.9).high


def test_the_interval_is_that_of_the_resampled_means_of_ratios(many):
    """Drawn again with the same generator: benchmark after benchmark, so many times as was asked for."""
    (own, unpruned), rng, both = many, np.random.default_rng(5), []
    for name in BOTH:
        units = len(own[name])
        drawn = [np.repeat(np.arange(units), row) for row in rng.multinomial(units, np.full(units, 1 / units), 200)]
        both.append([own[name][rows, 0].sum() / unpruned[name][rows, 0].sum() for rows in drawn])
    found = relative_accuracy(BOTH, own, unpruned, resamples=200, seed=5, level=0.8)
    assert [found.low, found.high] == pytest.approx(np.quantile(np.mean(both, 0), [0.1, 0.9]))


def test_a_resample_without_any_unpruned_score_leaves_the_benchmark_out():
    """Of four units one scores: about a third of the draws miss it."""
    own, unpruned = {"a": table(1, 1, 1, 1), "b": table(1, 0, 0, 0)}, {"a": table(2, 2, 2, 2), "b": table(1, 0, 0, 0)}
    found = relative_accuracy(BOTH, own, unpruned, resamples=500)
    assert (found.value, found.low, found.high) == (0.75, 0.5, 0.75)


def test_blocks_do_not_change_the_resamples(many, monkeypatch):
    own, unpruned = (one["a"] for one in many)

    def found():
        return resampled_sums([own, unpruned], 100, np.random.default_rng(0))

    whole = found()
    monkeypatch.setattr("learnpruner.evaluation.statistics.BLOCK", len(own) * 7)
    assert [len(part) for part in whole] == [100, 100]
    np.testing.assert_array_equal(whole, found())
