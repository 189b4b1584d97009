"""What pruning kept of the unpruned model's score: accuracy by kind, retention and its paired bootstrap interval.

Letters: S samples, C kinds of question, G scenes, R bootstrap resamples.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
BLOCK = 4_000_000  # weights drawn at once, so that memory stays bounded on large benchmarks


@dataclass(frozen=True)
class Retention:
    """Share of the unpruned score that is left, as a fraction of 1; None where the unpruned model scores nothing."""

    value: float | None
    low: float | None
    high: float | None


def kind_means(scores: Array, kinds: NDArray[np.int64], count: int) -> Array:
    """Mean score of each kind, (C,); nan for a kind without samples."""
    totals = np.bincount(kinds, weights=scores, minlength=count)
    samples = np.bincount(kinds, minlength=count)
    return np.divide(totals, samples, out=np.full(count, np.nan), where=samples > 0)


def mean_of_ratios(scores: Array, unpruned: Array) -> Array:
    """Mean over the last axis of scores / unpruned, leaving out entries where unpruned is zero; (..., C) -> (...)."""
    usable = unpruned > 0
    ratios = np.divide(scores, unpruned, out=np.zeros_like(scores, dtype=np.float64), where=usable)
    count = usable.sum(-1)
    return np.divide(ratios.sum(-1), count, out=np.full(count.shape, np.nan), where=count > 0)


def resampled(
    scores: Array,
    unpruned: Array,
    kinds: NDArray[np.int64],
    scenes: NDArray[np.int64],
    resamples: int = 2000,
    seed: int = 0,
) -> Array:
    """Retention in each bootstrap resample, (R,).

    Scenes are drawn with replacement, and each brings the scores of both models on all of its questions: what the two
    share (an easy scene, an unlucky one) cancels in the ratio. A kind's ratio of means is its ratio of sums, so that a
    resample is one row of scene weights times two tables of sums.
    """
    _, scene = np.unique(scenes, return_inverse=True)
    groups, count = int(scene.max()) + 1, int(kinds.max()) + 1
    cell = scene * count + kinds
    tables = [np.bincount(cell, weights=x, minlength=groups * count).reshape(groups, count) for x in (scores, unpruned)]
    rng = np.random.default_rng(seed)
    block = max(1, BLOCK // groups)
    parts = []
    for start in range(0, resamples, block):
        rows = min(block, resamples - start)
        weights = rng.multinomial(groups, np.full(groups, 1.0 / groups), size=rows).astype(np.float64)
        parts.append(mean_of_ratios(weights @ tables[0], weights @ tables[1]))
    return np.concatenate(parts)


def kept(scores: Array, unpruned: Array, kinds: NDArray[np.int64]) -> float:
    """Mean over kinds of score / unpruned score, NaN where nothing can be compared."""
    count = int(kinds.max()) + 1
    return float(mean_of_ratios(kind_means(scores, kinds, count), np.nan_to_num(kind_means(unpruned, kinds, count))))


def percentiles(value: float, draws: Array, level: float) -> Retention:
    """The value with the interval that holds the middle `level` of its draws."""
    tail = (1 - level) / 2
    low, high = np.nanquantile(draws, [tail, 1 - tail])
    return Retention(value, float(low), float(high))


def retention(
    scores: Array,
    unpruned: Array,
    kinds: NDArray[np.int64],
    scenes: NDArray[np.int64],
    resamples: int = 2000,
    seed: int = 0,
    level: float = 0.95,
) -> Retention:
    """Mean over kinds of score / unpruned score (not the ratio of means), with a percentile bootstrap interval.

    Args:
        scores, unpruned: (S,) score of each sample with and without pruning, in [0, 1].
        kinds: (S,) kind of each question, counted from 0.
        scenes: (S,) which scene a question is about: the unit that is resampled.
        level: coverage of the interval; higher is wider.
    """
    value = kept(scores, unpruned, kinds)
    if np.isnan(value):
        return Retention(None, None, None)
    return percentiles(value, resampled(scores, unpruned, kinds, scenes, resamples, seed), level)


def gain(
    scores: Array,
    other: Array,
    unpruned: Array,
    kinds: NDArray[np.int64],
    scenes: NDArray[np.int64],
    resamples: int = 2000,
    seed: int = 0,
    level: float = 0.95,
) -> Retention:
    """Retention of one plan less that of another on the same questions, with a paired interval; arguments as `retention`.

    Both are resampled with the same scenes, so that what they share cancels: the interval is narrower than their own.
    """
    value = kept(scores, unpruned, kinds) - kept(other, unpruned, kinds)
    if np.isnan(value):
        return Retention(None, None, None)
    one, two = (resampled(given, unpruned, kinds, scenes, resamples, seed) for given in (scores, other))
    return percentiles(value, one - two, level)
