"""Plans side by side: each against the first of its budget, on the same scenes."""

import json

import numpy as np
import pytest
from plans import plan

from learnpruner import Plan
from learnpruner.comparison import compare_exports as compare
from learnpruner.evaluation.results import UNPRUNED, BenchmarkOutcomes, EvaluatedQuestion, PlanOutcome
from learnpruner.evaluation.statistics import retention, retention_gain
from learnpruner.pruners.random import RandomPruner
from learnpruner.pruners.uniform import UniformPruner
from tests.tiny_folder import tiny_folder

TOKENS = {"entering": 8, "averaged": 8.0, "final": 8}


@pytest.fixture
def scores():
    """Two plans that are right on much the same scenes, and the unpruned model."""
    rng = np.random.default_rng(0)
    easy = rng.random(400)
    kinds, scenes = np.arange(400) % 3, np.arange(400)
    return [(easy < share).astype(float) for share in (0.8, 0.7, 0.9)] + [kinds, scenes]


def test_a_gain_is_the_difference_of_retentions_in_a_narrower_interval(scores):
    one, other, unpruned, kinds, scenes = scores
    found = retention_gain(one, other, unpruned, kinds, scenes)
    own = [retention(given, unpruned, kinds, scenes) for given in (one, other)]
    assert found.value == pytest.approx(own[0].value - own[1].value)
    assert found.low < found.value < found.high
    assert found.high - found.low < own[0].high - own[0].low
    assert retention_gain(other, one, unpruned, kinds, scenes).value == pytest.approx(-found.value)


def test_nothing_is_gained_over_oneself(scores):
    one, _, unpruned, kinds, scenes = scores
    same = retention_gain(one, one, unpruned, kinds, scenes)
    assert (same.value, same.low, same.high) == (0.0, 0.0, 0.0)
    silent = retention_gain(one, one, 0 * unpruned, kinds, scenes)
    assert (silent.value, silent.low, silent.high) == (None, None, None)


def test_the_interval_equals_a_plain_loop(scores):
    one, other, unpruned, kinds, scenes = (given[:60] for given in scores)
    rng, draws = np.random.default_rng(0), []
    for weights in rng.multinomial(60, np.full(60, 1 / 60), size=2000):
        sums = [[(weights * given)[kinds == kind].sum() for kind in range(3)] for given in (one, other, unpruned)]
        draws.append(np.mean([(a - b) / c for a, b, c in zip(*sums, strict=True) if c > 0]))
    found = retention_gain(one, other, unpruned, kinds, scenes)
    assert [found.low, found.high] == pytest.approx(np.quantile(draws, [0.025, 0.975]).tolist())


def test_plans_are_compared_with_the_first_of_their_budget():
    plans = {name: plan(ratio=ratio) for name, ratio in (("a", 0.5), ("b", 0.25), ("c", 0.5), ("d", 0.25))}
    assert compare.firsts(plans) == {"a": "a", "b": "b", "c": "a", "d": "b"}


def test_the_table_says_what_is_adapted_and_what_it_gains():
    questions = tuple(EvaluatedQuestion(i, "kind", "?", "yes") for i in range(20))
    right = {UNPRUNED: 20, "none": 10, "more": 15}
    outcomes = {name: PlanOutcome(("yes",) * 20, (np.arange(20) < n) * 1.0, TOKENS) for name, n in right.items()}
    outcomes["more"] = PlanOutcome(("yes",) * 20, (np.arange(20) < 15) * 1.0, TOKENS, "adapts the projector")
    found = BenchmarkOutcomes("nano", "scenes", ("kind",), questions, outcomes)
    plans = {name: Plan([], 0.5) for name in ("none", "more")}
    rows = compare.export_rows(found, plans)
    cells = compare.table({"unpruned": found.accuracy(UNPRUNED), "plans": rows})
    assert [line[0] for line in cells] == ["plan", "unpruned", "none", "more (adapts the projector)"]
    assert cells[2][-1] == "-" and cells[3][-1].startswith("25.0 [")
    assert cells[3][-2].startswith("75.0 [")


def test_the_program_compares_exports(tmp_path, capsys):
    backbone = tiny_folder(tmp_path / "tiny")
    for name, pruner in (("one", UniformPruner()), ("two", RandomPruner())):
        Plan([{"pruner": pruner, "at": "encoder"}], 0.25).save(tmp_path / name)
    arguments = [str(tmp_path / name) for name in ("one", "two")] + ["--backbone", str(backbone), "--limit", "3"]
    compare.main([*arguments, "--split", "validation", "--out", str(tmp_path / "out")])
    said = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in said[2:5]] == ["unpruned", "one", "two"]
    result = json.loads((tmp_path / "out" / "validation" / "results.json").read_text())
    assert result["samples"] == 3 and result["benchmark"] == "scenes, validation"
    assert result["plans"]["two"]["over"] == "one"


def test_exports_of_a_sweep_are_named_by_what_varied(tmp_path):
    for job in "01":
        (tmp_path / "sweep" / job / "export").mkdir(parents=True)
    first, second = (tmp_path / "sweep" / job / "export" for job in "01")
    assert [compare.export_label(path) for path in (first, second)] == ["0", "1"]  # before the sweep has ended
    jobs = [{"folder": "0", "settings": {"seed": "1", "loss": "kl"}}, {"folder": "1", "settings": {"seed": "2"}}]
    (tmp_path / "sweep" / "sweep.json").write_text(json.dumps(jobs))
    assert [compare.export_label(path) for path in (first, second)] == ["seed=1, loss=kl", "seed=2"]
    assert compare.export_label(tmp_path / "own") == "own"
