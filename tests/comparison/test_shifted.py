"""A second benchmark beside the main one: asked at one budget, with retention against the unpruned model's own score there."""

import csv
import json

import pytest
import torch
from families import FAMILIES

from learnpruner.backbones import Backbone
from learnpruner.benchmarks.scenes import ScenesBenchmark
from learnpruner.comparison.task import ComparisonTask
from learnpruner.evaluation.evaluator import evaluate
from learnpruner.evaluation.results import UNPRUNED
from learnpruner.evaluation.task import TaskContext


class Odd(ScenesBenchmark):
    """Scenes with a rule that a random model meets half of the time."""

    def score(self, prediction, example):
        return float(sum(map(ord, prediction)) % 2)


METHODS = ["random", "uniform"]


@pytest.fixture(scope="module")
def compared(tmp_path_factory):
    torch.set_num_threads(1)
    backbone = Backbone(*reversed(FAMILIES["llava"].make()), "llava")
    task = ComparisonTask(Odd(), 8, 4, 2, methods=METHODS, selection_repeats=0, downsampling=True, shifted=Odd(seed=1))
    folder = tmp_path_factory.mktemp("run")
    path, text = task.run(TaskContext(backbone, folder, budgets=[0.5, 0.1]))
    return backbone, task, folder, json.loads(path.read_text()), text


def test_a_method_is_told_what_it_keeps_there_and_at_the_main_budget_alone(compared):
    backbone, task, folder, result, _ = compared
    rows = {(row["method"], row["prune_ratio"]): row for row in result["rows"]}
    grid = task.grid(TaskContext(backbone, folder).pruners, 0)
    plans = {method: grid.plan(method, None, 0.1, backbone) for method in METHODS}
    found = evaluate(backbone, plans, Odd(seed=1), 8, 4, 2)
    for method in METHODS:
        alone = found.row(method)
        assert rows[method, 0.1]["shifted"] == {key: alone[key] for key in ("accuracy", "retention")}
        assert rows[method, 0.5]["shifted"] is None
    assert result["shifted"]["unpruned"] == found.accuracy(UNPRUNED)
    assert rows["downsampling", 0.1]["shifted"]["retention"]["value"] is not None


def test_the_main_table_is_as_it_is_without(compared, tmp_path):
    backbone, _, _, result, _ = compared
    plain = ComparisonTask(Odd(), 8, 4, 2, methods=METHODS, selection_repeats=0, downsampling=True)
    path, text = plain.run(TaskContext(backbone, tmp_path, budgets=[0.5, 0.1]))
    other = json.loads(path.read_text())
    assert other["shifted"] is None and "second" not in text
    for one, two in zip(result["rows"], other["rows"], strict=True):
        assert (one["accuracy"], one["retention"]) == (two["accuracy"], two["retention"])


def test_it_is_a_column_a_note_and_a_part_of_the_csv(compared):
    _, _, folder, result, text = compared
    assert "second scenes at 0.1" in text.splitlines()[0]
    assert result["shifted"]["settings"]["seed"] == 1 and result["shifted"]["prune_ratio"] == 0.1
    page = (folder / "peers.md").read_text()
    assert "second scenes at 0.1" in page and "The second benchmark, scenes (8 samples, at 0.1 alone)" in page
    with (folder / "peers.csv").open(newline="") as file:
        rows = {(row["method"], row["prune_ratio"]): row for row in csv.DictReader(file)}
    told = {(row["method"], str(row["prune_ratio"])): row["shifted"] for row in result["rows"]}
    assert float(rows["random", "0.1"]["shifted_value"]) == told["random", "0.1"]["retention"]["value"]
    assert rows["random", "0.5"]["shifted_value"] == ""
