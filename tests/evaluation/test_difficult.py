"""Difficult samples: right at full size and wrong on the smaller picture; the score on them with its interval."""

import json

import numpy as np
import pytest
import torch
from families import FAMILIES

from learnpruner.backbones import Backbone
from learnpruner.evaluation.difficult import difficult_samples, subset_score
from learnpruner.evaluation.downsampling import Downsampling, downsampled_of
from learnpruner.evaluation.evaluator import Evaluator, evaluate
from learnpruner.evaluation.results import UNPRUNED, BenchmarkOutcomes, EvaluatedQuestion, PlanOutcome
from learnpruner.evaluation.suite_task import BenchmarkSuiteTask
from learnpruner.evaluation.task import TaskContext
from learnpruner.plan import Plan
from learnpruner.pruners.random import RandomPruner
from tests.benchmarks.test_public_benchmarks import build
from tests.evaluation.test_evaluator import Echo
from tests.tiny_benchmarks import MAKERS

TOKENS = {"entering": 8, "averaged": 8.0, "final": 8}


@pytest.fixture
def scores():
    rng = np.random.default_rng(1)
    return [(rng.random(80) < share).astype(float) for share in (0.9, 0.5, 0.6)] + [np.arange(80) // 2]


def test_difficult_is_right_at_full_size_and_wrong_on_the_smaller_picture(scores):
    unpruned, small, _, _ = scores
    assert difficult_samples(unpruned, small).tolist() == [
        a == 1 and b == 0 for a, b in zip(unpruned, small, strict=True)
    ]
    credits = difficult_samples(np.array([0.6, 0.5, 0.4, 1.0]), np.array([0.3, 0.5, 0.0, 0.49]))
    assert credits.tolist() == [True, False, False, True]


def test_the_score_and_its_interval_equal_a_plain_loop(scores):
    unpruned, small, own, scenes = scores
    counted = difficult_samples(unpruned, small)
    found = subset_score([(own, counted, scenes)])
    assert found.value == pytest.approx(own[counted].mean())
    rng, draws = np.random.default_rng(0), []
    for weights in rng.multinomial(40, np.full(40, 1 / 40), size=2000):
        drawn = weights[scenes] * counted
        draws.append((drawn * own).sum() / drawn.sum())
    assert [found.low, found.high] == pytest.approx(np.quantile(draws, [0.025, 0.975]).tolist())


def test_benchmarks_count_alike_and_those_without_such_samples_not_at_all(scores):
    unpruned, small, own, scenes = scores
    counted = difficult_samples(unpruned, small)
    one, other = (own, counted, scenes), (np.ones(6), np.array([True] * 3 + [False] * 3), np.arange(6))
    none = (np.ones(4), np.zeros(4, bool), np.arange(4))
    assert subset_score([one, other, none]).value == pytest.approx((own[counted].mean() + 1) / 2)
    assert subset_score([none]).value is None


def test_each_plan_is_held_against_downsampling_at_its_own_budget():
    plans = {UNPRUNED: None, "a": Plan([], 0.5), "b": Plan([], 0.1), "small@0.5": Downsampling(0.5), "c": Plan([], 0.5)}
    assert downsampled_of(plans) == {"a": "small@0.5", "c": "small@0.5", "small@0.5": "small@0.5"}


def test_rows_say_how_many_and_downsampling_has_none_of_them():
    questions = tuple(EvaluatedQuestion(i, "kind", "?", "yes") for i in range(20))
    right = {UNPRUNED: range(16), "small": range(4, 20), "own": range(2), "none": range(2)}
    outcomes = {
        name: PlanOutcome(("yes",) * 20, np.isin(np.arange(20), [*rows]) * 1.0, TOKENS) for name, rows in right.items()
    }
    found = BenchmarkOutcomes("nano", "scenes", ("kind",), questions, outcomes, {"own": "small", "small": "small"})
    assert found.row("own")["difficult"]["samples"] == 4
    assert (found.row("own")["difficult"]["value"], found.row("small")["difficult"]["value"]) == (0.5, 0.0)
    assert "difficult" not in found.row("none")
    told = found.result("x", 0.5, "own").measured
    assert told["difficult"]["value"] == 0.5 and "difficult" not in told["baselines"]["none"]


@pytest.fixture(scope="module")
def backbone():
    torch.set_num_threads(1)
    return Backbone(*reversed(FAMILIES["llava"].make()), "llava")


def test_an_evaluation_finds_them_among_its_own_answers(backbone):
    echo = Echo(evaluate(backbone, {}, Echo([""] * 8), 8, 4).outcomes[UNPRUNED].answers)
    plans = {"own": Plan([{"pruner": RandomPruner(), "at": "encoder"}], 0.25).prepare(backbone.family)}
    found = evaluate(backbone, {**plans, "small": Downsampling(0.25)}, echo, 8, 4)
    lost = found.outcomes["small"].scores == 0
    assert found.row("own")["difficult"]["samples"] == lost.sum() > 0
    assert found.row("own")["difficult"]["value"] == pytest.approx(found.outcomes["own"].scores[lost].mean())


def evaluate_small(backbone, datasets):
    """What downsampling answers to each example, in the suite's batches."""
    plans, rows = {"small": Downsampling(0.25)}, BenchmarkSuiteTask(datasets).batch_size
    found = [Evaluator(backbone, rows).run(plans, data)["small"] for data in datasets.values()]
    return {one.id: one.prediction for answered in found for one in answered}


def test_a_suite_counts_them_benchmark_by_benchmark(backbone, tmp_path, monkeypatch):
    """Right is made to be what downsampling does not answer."""
    datasets = {name: build(name, MAKERS[name](tmp_path / name), max_new_tokens=3) for name in ("ai2d", "docvqa")}
    small = evaluate_small(backbone, datasets)
    for one in datasets.values():
        monkeypatch.setattr(type(one), "score", lambda self, said, example: float(said != small[example.id]))
    plan = Plan([{"pruner": RandomPruner(), "at": "encoder"}], 0.25).prepare(backbone.family)
    task = BenchmarkSuiteTask(datasets)
    path, text = task.run(TaskContext(backbone, tmp_path, plan, "x", "own", {"small": Downsampling(0.25)}))
    result = json.loads(path.read_text())
    lines = [json.loads(line) for line in (tmp_path / "answers" / "rank0.jsonl").read_text().splitlines()]
    score = {(line["benchmark"], line["plan"], line["index"]): line["sample"]["score"] for line in lines}
    lost = {
        name: [i for i in range(len(data)) if score[name, UNPRUNED, i] == 1 and score[name, "small", i] == 0]
        for name, data in datasets.items()
    }
    counts = {name: len(rows) for name, rows in lost.items()}
    assert result["difficult"]["benchmarks"] == counts and result["difficult"]["samples"] == sum(counts.values()) > 0
    means = [np.mean([score[name, "own", i] for i in rows]) for name, rows in lost.items() if rows]
    assert result["difficult"]["value"] == pytest.approx(np.mean(means))
    assert result["baselines"]["small"]["difficult"]["value"] == 0
    assert f"difficult, n = {sum(counts.values())}" in text and "2510.07143" in text
