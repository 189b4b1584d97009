"""What a suite measured: accuracy and retention as every task has them, and all metrics of each benchmark in the papers' units."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import numpy as np

from learnpruner.backbones import Backbone, family_of
from learnpruner.benchmarks.base import AnsweredExample
from learnpruner.benchmarks.public import PublicBenchmark
from learnpruner.evaluation.difficult import difficult_samples, subset_score
from learnpruner.evaluation.downsampling import Contestant, downsampled_of
from learnpruner.evaluation.results import UNPRUNED
from learnpruner.evaluation.statistics import relative_accuracy
from learnpruner.plan import Plan

SuiteAnswers = dict[str, dict[str, list[AnsweredExample]]]  # benchmark -> plan -> answers in the dataset's order
Benchmarks = Mapping[str, PublicBenchmark]


def suite_measurements(
    backbone: Backbone, plans: Mapping[str, Contestant], benchmarks: Benchmarks, found: SuiteAnswers, own: str
) -> dict[str, Any]:
    """Measure what results.json says of a suite.

    "accuracy" holds each benchmark's score as a fraction of the best possible one, "retention" RelAcc, "scores" the
    papers' numbers.

    Args:
        backbone: that answered.
        plans: by name, None for the unpruned model.
        benchmarks: by name.
        found: the answers.
        own: the plan that the result is about, all others are baselines.
    """
    parts = family_of(backbone.model)
    sums = {plan: {name: benchmarks[name].sums(found[name][plan]) for name in benchmarks} for plan in plans}

    downsampled = downsampled_of(plans)

    def difficult(plan: str) -> dict[str, Any]:
        if plan not in downsampled:
            return {}
        return {"difficult": difficult_score(benchmarks, found, plan, downsampled[plan])}

    def row(plan: str) -> dict[str, Any]:
        return {
            "accuracy": fractions(benchmarks, found, plan),
            "retention": asdict(relative_accuracy(benchmarks, sums[plan], sums[UNPRUNED])),
            "tokens": (plans[plan] or Plan()).tokens(parts.tokens, parts.layers),
            "adapts": (plans[plan] or Plan()).adapts,
            **difficult(plan),
        }

    chosen = plans[own]
    return {
        "samples": sum(len(found[name][own]) for name in benchmarks),
        "prune_ratio": 1.0 if chosen is None else chosen.prune_ratio,
        **row(own),
        "unpruned": fractions(benchmarks, found, UNPRUNED),
        "baselines": {plan: row(plan) for plan in plans if plan not in (UNPRUNED, own)},
        "scores": {plan: metrics(benchmarks, found, plan) for plan in plans},
        "settings": {name: {**one.arguments(), "samples": len(found[name][own])} for name, one in benchmarks.items()},
    }


def difficult_score(benchmarks: Benchmarks, found: SuiteAnswers, plan: str, downsampled: str) -> dict[str, Any]:
    """Score a plan on the rows that downsampling loses, averaged over the benchmarks that have some.

    Args:
        benchmarks: by name.
        found: the answers.
        plan: its name among them.
        downsampled: that of downsampling at its budget.

    Returns:
        The number of rows, the interval, and the number in each benchmark.
    """
    parts, counts = [], {}
    for name in benchmarks:
        whole, small, own = (
            np.array([one.score for one in found[name][other]]) for other in (UNPRUNED, downsampled, plan)
        )
        counted = difficult_samples(whole, small)
        counts[name] = int(counted.sum())
        parts.append((own, counted, np.array([one.scene for one in found[name][plan]])))
    return {"samples": sum(counts.values()), **asdict(subset_score(parts)), "benchmarks": counts}


def fractions(benchmarks: Benchmarks, found: SuiteAnswers, plan: str) -> dict[str, float | None]:
    """State each score as a fraction of the highest possible one, and their mean."""
    shares = {name: known(one.total(found[name][plan]) / one.best) for name, one in benchmarks.items()}
    scored = [value for value in shares.values() if value is not None]
    return shares | {"mean": sum(scored) / len(scored) if scored else None}


def metrics(benchmarks: Benchmarks, found: SuiteAnswers, plan: str) -> dict[str, dict[str, float | None]]:
    """Compute all metrics of each benchmark under a plan, in the papers' units; None for nan."""
    return {
        name: {metric: known(value) for metric, value in one.metrics(found[name][plan]).items()}
        for name, one in benchmarks.items()
    }


def known(value: float) -> float | None:
    """Replace nan, which JSON does not have, by None."""
    return None if value != value else float(value)
