"""RelAcc: the mean over benchmarks of score / unpruned score, with a paired bootstrap interval.

Letters: G units of a benchmark (images), C sums, R resamples.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from learnpruner.benchmarks.public import FieldBenchmark
from learnpruner.evaluation.statistics import BLOCK, Retention, mean_of_ratios

Array = NDArray[np.float64]


def relacc(
    benchmarks: Mapping[str, FieldBenchmark],
    own: Mapping[str, Array],
    unpruned: Mapping[str, Array],
    resamples: int = 2000,
    seed: int = 0,
    level: float = 0.95,
) -> Retention:
    """A benchmark on which the unpruned model scores nothing is left out.

    own, unpruned: (G, C) sums of each benchmark, the same units in the same order. level: higher is wider.
    Units are drawn with replacement, and each brings the answers of both models: what the two share cancels.
    """
    scores, before = (
        np.array([benchmarks[name].value(table[name].sum(0)) for name in benchmarks]) for table in (own, unpruned)
    )
    value = mean_of_ratios(scores, np.nan_to_num(before))
    if np.isnan(value):
        return Retention(None, None, None)
    rng = np.random.default_rng(seed)
    drawn = [resampled(benchmarks[name], own[name], unpruned[name], resamples, rng) for name in benchmarks]
    draws, before = (np.stack(part, -1) for part in zip(*drawn, strict=True))
    tail = (1 - level) / 2
    low, high = np.nanquantile(mean_of_ratios(np.nan_to_num(draws), np.nan_to_num(before)), [tail, 1 - tail])
    return Retention(float(value), float(low), float(high))


def resampled(
    benchmark: FieldBenchmark, own: Array, unpruned: Array, resamples: int, rng: np.random.Generator
) -> tuple[Array, Array]:
    """Scores of both in each resample, (R,) and (R,)."""
    units, block = len(own), max(1, BLOCK // len(own))
    parts = []
    for start in range(0, resamples, block):
        rows = min(block, resamples - start)
        weights = rng.multinomial(units, np.full(units, 1.0 / units), size=rows).astype(np.float64)
        parts.append((benchmark.value(weights @ own), benchmark.value(weights @ unpruned)))
    first, second = zip(*parts, strict=True)
    return np.concatenate(first), np.concatenate(second)
