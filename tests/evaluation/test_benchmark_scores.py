"""Scores of several benchmarks and their table, worked out by hand from answers and numbers that no model made."""

import pytest

from learnpruner.benchmarks.gqa import Gqa
from learnpruner.benchmarks.mme import Mme
from learnpruner.evaluation import benchmark_tables as tables
from learnpruner.evaluation.benchmark_scores import fractions, metrics
from learnpruner.evaluation.results import UNPRUNED
from tests.tiny_benchmarks import gqa, mme


@pytest.fixture
def benchmarks(tmp_path):
    return {"mme": Mme(str(mme(tmp_path / "mme"))), "gqa": Gqa(str(gqa(tmp_path / "gqa")))}


@pytest.fixture
def found(benchmarks):
    """Unpruned: all of MME, four of six of GQA. The plan: one question of each pair, so that 14 x 50 points; two of six."""
    answers = {}
    for name, plan, right in (
        ("mme", UNPRUNED, lambda one, i: True),
        ("mme", "own", lambda one, i: one.answer == "yes"),
        ("gqa", UNPRUNED, lambda one, i: i < 4),
        ("gqa", "own", lambda one, i: i < 2),
    ):
        examples = [benchmarks[name][i] for i in range(len(benchmarks[name]))]
        answers.setdefault(name, {})[plan] = [
            benchmarks[name].answered(one, one.answer if right(one, i) else "?") for i, one in enumerate(examples)
        ]
    return answers


def test_fractions_are_of_the_highest_score(benchmarks, found):
    whole, own = (fractions(benchmarks, found, plan) for plan in (UNPRUNED, "own"))
    assert whole == pytest.approx({"mme": 1.0, "gqa": 4 / 6, "mean": (1 + 4 / 6) / 2})
    assert own == pytest.approx({"mme": 700 / 2800, "gqa": 2 / 6, "mean": (700 / 2800 + 2 / 6) / 2})
    found["gqa"]["own"] = []
    assert fractions(benchmarks, found, "own") == {"mme": 0.25, "gqa": None, "mean": 0.25}


def test_metrics_are_in_the_papers_units(benchmarks, found):
    own = metrics(benchmarks, found, "own")
    assert own["mme"]["score"] == 700 and own["mme"]["perception"] == 500 and own["mme"]["cognition"] == 200
    assert own["gqa"]["score"] == pytest.approx(100 * 2 / 6)


def row(value, tokens):
    return {"retention": {"value": value, "low": value - 0.1, "high": value + 0.1}, "tokens": {"averaged": tokens}}


def test_the_table_ranks_baselines_and_shows_each_its_own_scores(benchmarks):
    numbers = {UNPRUNED: (1862.4, 61.94), "own": (1750.5, 58.86), "a": (1600.2, 57.0), "b": (1500.0, 50.0)}
    scores = {plan: {"mme": {"score": one}, "gqa": {"score": two}} for plan, (one, two) in numbers.items()}
    result = {
        "plan": "x",
        "scores": scores,
        "baselines": {"a": row(0.9, 63.6), "b": row(0.8, 64.0)},
        **row(0.95, 64.04),
    }
    assert tables.benchmark_table(result, benchmarks, "own") == [
        ["plan", "tokens", "GQA", "MME", "RelAcc, 95 %"],
        ["unpruned", "all", "61.9", "1862", "100.0"],
        ["b", "64.0", "50.0", "1500", "80.0 [70.0, 90.0]"],
        ["a", "63.6", "57.0", "1600", "90.0 [80.0, 100.0]"],
        ["own", "64.0", "58.9", "1750", "95.0 [85.0, 105.0]"],
    ]
    alone = {**result, "plan": None, "baselines": {}}
    assert [cells[0] for cells in tables.benchmark_table(alone, benchmarks, "own", paper=True)] == [
        "plan", "unpruned", "paper: unpruned", *["paper: LearnPruner"] * 3,
    ]  # fmt: skip
