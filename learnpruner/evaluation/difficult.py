"""Difficult samples, those that a smaller picture loses, and the score on them alone. https://arxiv.org/abs/2510.07143

Letters: S samples, G scenes, R bootstrap resamples.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from learnpruner.benchmarks.public import ratio_or_nan
from learnpruner.evaluation.statistics import Array, Interval, paired_bootstrap

RIGHT_FROM = 0.5  # score from which an answer counts as right
DIFFICULT_NOTE = (
    "Difficult samples are those that the unpruned model answers rightly and downsampling at the same budget wrongly (arXiv "
    "2510.07143). The score is on them alone: by their choice 100 of the unpruned model and 0 of downsampling."
)


def difficult_samples(unpruned: Array, downsampled: Array) -> NDArray[np.bool_]:
    """Find the samples that tell pruning methods apart, as VTC-Bench does: right at full size, wrong on the smaller picture.

    Args:
        unpruned: (S,) score of each sample.
        downsampled: (S,) the same on smaller pictures.

    Returns:
        (S,) whether a sample is one.
    """
    return (unpruned >= RIGHT_FROM) & (downsampled < RIGHT_FROM)


def subset_score(
    parts: Sequence[tuple[Array, NDArray[np.bool_], NDArray[np.generic]]],
    resamples: int = 2000,
    seed: int = 0,
    level: float = 0.95,
) -> Interval:
    """Average the score over the samples of a subset, and that over benchmarks, with its interval.

    Args:
        parts: of each benchmark the (S,) score of each sample, which of them count, and which scene each is about.
        resamples: as of `paired_bootstrap`; the subset is the same in all of them.
        seed: likewise.
        level: likewise.

    Returns:
        The mean over the benchmarks that have such samples; nothing where none has.
    """

    def mean(sums: Sequence[Sequence[Array]]) -> Array:
        each = np.stack([ratio_or_nan(one[..., 0], one[..., 1]) for (one,) in sums], -1)
        return ratio_or_nan(np.nansum(each, -1), (~np.isnan(each)).sum(-1))

    tables = []
    for scores, counted, scenes in parts:
        _, scene = np.unique(scenes, return_inverse=True)
        weights = counted.astype(np.float64)
        columns = [np.bincount(scene, weights=values).astype(np.float64) for values in (scores * weights, weights)]
        tables.append([np.stack(columns, -1)])
    value = float(mean([[table.sum(0)] for (table,) in tables]))
    return paired_bootstrap(value, mean, tables, resamples, seed, level)
