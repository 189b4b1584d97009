"""What a suite measured: accuracy and retention as every task has them, and all metrics of each benchmark in the papers' units."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from learnpruner.backbones import Backbone, family_of
from learnpruner.benchmarks.base import AnsweredExample
from learnpruner.benchmarks.public import PublicBenchmark
from learnpruner.evaluation.downsampling import Contestant
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

    def row(plan: str) -> dict[str, Any]:
        return {
            "accuracy": fractions(benchmarks, found, plan),
            "retention": asdict(relative_accuracy(benchmarks, sums[plan], sums[UNPRUNED])),
            "tokens": (plans[plan] or Plan()).tokens(parts.tokens, parts.layers),
            "adapts": (plans[plan] or Plan()).adapts,
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
