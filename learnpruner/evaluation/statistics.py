"""What pruning kept of the unpruned model's score, with paired bootstrap intervals.

Letters: S samples, C kinds of question or sums of a score, G units that are resampled (images), R bootstrap resamples.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from learnpruner.benchmarks.public import PublicBenchmark

Array = NDArray[np.float64]
Statistic = Callable[[Sequence[Sequence[Array]]], Array]
BLOCK = 4_000_000  # weights drawn at once, so that memory stays bounded on large benchmarks


@dataclass(frozen=True)
class Interval:
    """A value with its confidence interval, as fractions of 1; all None where nothing can be compared."""

    value: float | None
    low: float | None
    high: float | None


def paired_bootstrap(
    value: float,
    statistic: Statistic,
    benchmarks: Sequence[Sequence[Array]],
    resamples: int = 2000,
    seed: int = 0,
    level: float = 0.95,
) -> Interval:
    """Put a percentile bootstrap interval around a value.

    Units are drawn with replacement, and each brings what all plans scored on it: what the plans share (an easy image, an
    unlucky one) cancels.

    Args:
        value: the statistic on the data themselves; nan gives an interval of None.
        statistic: from each benchmark's sums, one (R, C) a plan, to (R,).
        benchmarks: of each one table (G, C) a plan: what each unit adds to the sums, the same units in the same order.
        resamples: R; higher is slower, with steadier ends.
        seed: draws the resamples.
        level: share of the resamples that the interval holds; higher is wider.
    """
    if np.isnan(value):
        return Interval(None, None, None)
    rng = np.random.default_rng(seed)
    draws = statistic([resampled_sums(tables, resamples, rng) for tables in benchmarks])
    tail = (1 - level) / 2
    low, high = np.nanquantile(draws, [tail, 1 - tail])
    return Interval(float(value), float(low), float(high))


def resampled_sums(tables: Sequence[Array], resamples: int, rng: np.random.Generator) -> list[Array]:
    """Add up each table over units drawn with replacement, the same ones for all.

    A resample is one row of weights, how often each unit was drawn, times the table.

    Args:
        tables: (G, C) each.
        resamples: R.
        rng: draws the units.

    Returns:
        (R, C) each.
    """
    units = len(tables[0])
    block = max(1, BLOCK // units)
    parts: list[list[Array]] = [[] for _ in tables]
    for start in range(0, resamples, block):
        rows = min(block, resamples - start)
        weights = rng.multinomial(units, np.full(units, 1.0 / units), size=rows).astype(np.float64)
        for part, table in zip(parts, tables, strict=True):
            part.append(weights @ table)
    return [np.concatenate(part) for part in parts]


def mean_of_ratios(scores: Array, unpruned: Array) -> Array:
    """Average scores / unpruned over the last axis, without entries where unpruned is zero; (..., C) -> (...), nan for none."""
    usable = unpruned > 0
    ratios = np.divide(scores, unpruned, out=np.zeros_like(scores, dtype=np.float64), where=usable)
    count = usable.sum(-1)
    return np.divide(ratios.sum(-1), count, out=np.full(count.shape, np.nan), where=count > 0)


def kind_means(scores: Array, kinds: NDArray[np.int64], count: int) -> Array:
    """Average the scores of each kind, (C,); nan for a kind without samples."""
    totals = np.bincount(kinds, weights=scores, minlength=count)
    samples = np.bincount(kinds, minlength=count)
    return np.divide(totals, samples, out=np.full(count, np.nan), where=samples > 0)


def kind_sums(scores: Array, kinds: NDArray[np.int64], scenes: NDArray[np.generic]) -> Array:
    """Add up what each scene brings to each kind: scores, kinds, scenes (S,) -> (G, C)."""
    _, scene = np.unique(scenes, return_inverse=True)
    groups, count = int(scene.max()) + 1, int(kinds.max()) + 1
    sums = np.bincount(scene * count + kinds, weights=scores, minlength=groups * count).astype(np.float64)
    return sums.reshape(groups, count)


def relative_score(scores: Array, unpruned: Array, kinds: NDArray[np.int64]) -> float:
    """Average score / unpruned score over kinds, nan where nothing can be compared."""
    count = int(kinds.max()) + 1
    return float(mean_of_ratios(kind_means(scores, kinds, count), np.nan_to_num(kind_means(unpruned, kinds, count))))


def retention(
    scores: Array,
    unpruned: Array,
    kinds: NDArray[np.int64],
    scenes: NDArray[np.generic],
    resamples: int = 2000,
    seed: int = 0,
    level: float = 0.95,
) -> Interval:
    """Average score / unpruned score over kinds (not the ratio of means), with its interval.

    Args:
        scores: (S,) score of each sample with pruning, in [0, 1].
        unpruned: (S,) the same without.
        kinds: (S,) kind of each question, counted from 0.
        scenes: (S,) which scene a question is about: the unit that is resampled.
        resamples: as of `paired_bootstrap`.
        seed: likewise.
        level: likewise.
    """
    tables = [kind_sums(one, kinds, scenes) for one in (scores, unpruned)]
    value = relative_score(scores, unpruned, kinds)
    return paired_bootstrap(value, lambda sums: mean_of_ratios(*sums[0]), [tables], resamples, seed, level)


def retention_gain(
    scores: Array,
    other: Array,
    unpruned: Array,
    kinds: NDArray[np.int64],
    scenes: NDArray[np.generic],
    resamples: int = 2000,
    seed: int = 0,
    level: float = 0.95,
) -> Interval:
    """Compare the retention of two plans on the same questions.

    Both are resampled with the same scenes: the interval is narrower than their own.

    Args:
        scores: (S,) score of each sample under the one plan, in [0, 1].
        other: (S,) the same under the other.
        unpruned: (S,) the same without pruning.
        kinds: (S,) kind of each question, counted from 0.
        scenes: (S,) which scene a question is about: the unit that is resampled.
        resamples: as of `paired_bootstrap`.
        seed: likewise.
        level: likewise.

    Returns:
        The one's retention less the other's, with its interval.
    """
    tables = [kind_sums(one, kinds, scenes) for one in (scores, other, unpruned)]
    value = relative_score(scores, unpruned, kinds) - relative_score(other, unpruned, kinds)

    def difference(sums: Sequence[Sequence[Array]]) -> Array:
        first, second, whole = sums[0]
        return mean_of_ratios(first, whole) - mean_of_ratios(second, whole)

    return paired_bootstrap(value, difference, [tables], resamples, seed, level)


def relative_accuracy(
    benchmarks: Mapping[str, PublicBenchmark],
    own: Mapping[str, Array],
    unpruned: Mapping[str, Array],
    resamples: int = 2000,
    seed: int = 0,
    level: float = 0.95,
) -> Interval:
    """Compute RelAcc: the mean over benchmarks of score / unpruned score, with its interval.

    A benchmark on which the unpruned model scores nothing is left out.

    Args:
        benchmarks: name -> the benchmark, which turns sums into its score.
        own: name -> (G, C) sums of each unit with pruning.
        unpruned: name -> the same without, of the same units in the same order.
        resamples: as of `paired_bootstrap`.
        seed: likewise.
        level: likewise.
    """

    def mean(sums: Sequence[Sequence[Array]]) -> Array:
        pairs = [[one.value(part) for part in pair] for one, pair in zip(benchmarks.values(), sums, strict=True)]
        scores, before = (np.nan_to_num(np.stack(part, -1)) for part in zip(*pairs, strict=True))
        return mean_of_ratios(scores, before)

    totals = [[own[name].sum(0), unpruned[name].sum(0)] for name in benchmarks]
    return paired_bootstrap(
        float(mean(totals)), mean, [[own[name], unpruned[name]] for name in benchmarks], resamples, seed, level
    )
