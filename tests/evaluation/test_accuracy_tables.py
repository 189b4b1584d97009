"""results.json keeps its keys, and the table and the page say what it says."""

import json

import numpy as np
import pytest

from learnpruner.evaluation import table_format as report
from learnpruner.evaluation.accuracy_tables import accuracy_table, sweep_table
from learnpruner.evaluation.reports import retention_sentence, retention_summary, write_report
from learnpruner.evaluation.results import UNPRUNED, BenchmarkOutcomes, EvaluatedQuestion, PlanOutcome
from learnpruner.utils.io import write_json

KINDS = ("existence", "counting", "never asked")
TOKENS = {"entering": 55, "averaged": 31.9, "final": 18}
ACCURACY = {"existence", "counting", "mean"}
CONTRACT = {
    "plan", "backbone", "benchmark", "samples", "prune_ratio", "tokens", "accuracy", "unpruned", "retention",
    "baselines", "versions", "commit", "command", "hardware", "schema_version",
}  # fmt: skip


def results():
    """Ten scenes, kinds taking turns; unpruned 9 of 10, ours 8, random 4, uniform 6."""
    questions = tuple(EvaluatedQuestion(i, KINDS[i % 2], "is it?", "yes") for i in range(10))

    def outcome(right):
        scores = np.array([float(i < right) for i in range(10)])
        return PlanOutcome(("yes",) * 10, scores, TOKENS)

    plans = {UNPRUNED: outcome(9), "ours": outcome(8), "random": outcome(4), "uniform": outcome(6)}
    return BenchmarkOutcomes("nano", "scenes", KINDS, questions, plans)


@pytest.fixture
def result():
    return results().result("checkpoints/x", 0.055, "ours").to_dict()


def test_the_keys_are_the_contract(result):
    assert set(result) == CONTRACT
    assert set(result["tokens"]) == {"entering", "averaged", "final"}
    assert set(result["accuracy"]) == set(result["unpruned"]) == ACCURACY
    assert set(result["retention"]) == {"value", "low", "high"}
    assert set(result["baselines"]) == {"random", "uniform"}
    for row in result["baselines"].values():
        assert set(row) == {"accuracy", "retention", "tokens"}
        assert set(row["retention"]) == {"value", "low", "high"}
        assert set(row["accuracy"]) == ACCURACY


def test_the_values_are_fractions_and_survive_json(result, tmp_path):
    assert json.loads(write_json(result, tmp_path / "results.json").read_text()) == result
    assert result["samples"] == 10
    assert result["unpruned"] == pytest.approx({"existence": 1.0, "counting": 0.8, "mean": 0.9})
    assert result["accuracy"] == pytest.approx({"existence": 0.8, "counting": 0.8, "mean": 0.8})
    assert result["retention"]["value"] == pytest.approx((0.8 / 1.0 + 0.8 / 0.8) / 2)
    assert result["retention"]["low"] <= result["retention"]["value"] <= result["retention"]["high"]


def test_each_kind_counts_alike_however_often_it_is_asked():
    """Three of four right in one kind, none of one in the other: 37.5 %, not 60 %."""
    questions = tuple(EvaluatedQuestion(i, KINDS[int(i == 4)], "is it?", "yes") for i in range(5))
    scores = {UNPRUNED: [1.0] * 5, "ours": [1.0, 1.0, 1.0, 0.0, 0.0]}
    outcomes = {name: PlanOutcome(("yes",) * 5, np.array(values), TOKENS) for name, values in scores.items()}
    result = BenchmarkOutcomes("nano", "scenes", KINDS, questions, outcomes).result("x", 0.5, "ours").to_dict()
    assert result["accuracy"] == {"existence": 0.75, "counting": 0.0, "mean": 0.375}
    assert result["retention"]["value"] == pytest.approx(0.375)


def test_baselines_stand_from_worst_to_best_whatever_their_names():
    questions = tuple(EvaluatedQuestion(i, KINDS[0], "is it?", "yes") for i in range(10))
    right = {UNPRUNED: 10, "c": 2, "a": 9, "d": 5, "b": 3, "ours": 7}
    outcomes = {n: PlanOutcome(("yes",) * 10, (np.arange(10) < count) * 1.0, TOKENS) for n, count in right.items()}
    result = BenchmarkOutcomes("nano", "scenes", KINDS, questions, outcomes).result("x", 0.5, "ours").to_dict()
    assert [row[0] for row in accuracy_table(result, "ours")] == ["plan", "unpruned", "c", "b", "d", "a", "ours"]


def test_the_unpruned_model_keeps_everything():
    alone = results().result(None, 1.0).to_dict()
    assert alone["plan"] is None
    assert alone["accuracy"] == alone["unpruned"]
    assert alone["retention"] == {"value": 1.0, "low": 1.0, "high": 1.0}


def test_the_table_rises_from_the_worst_baseline_to_the_plan(result):
    cells = accuracy_table(result)
    assert [row[0] for row in cells] == ["plan", "unpruned", "random", "uniform", "learnpruner"]
    assert cells[0] == ["plan", "tokens", "existence", "counting", "mean", "retention, 95 %"]
    assert cells[-1][1:5] == ["31.9", "80.0", "80.0", "80.0"]
    assert cells[-1][5].startswith("90.0 [")


def test_a_plan_that_adapts_the_model_says_so(result):
    mine = result | {"adapts": "adapts the LLM: LoRA r 8"}
    mine["baselines"]["uniform"]["adapts"] = "adapts the projector"
    names = [row[0] for row in accuracy_table(mine, "ours")]
    assert names[2:] == ["random", "uniform (adapts the projector)", "ours (adapts the LLM: LoRA r 8)"]


def test_text_is_aligned_and_markdown_is_a_table(result):
    cells = accuracy_table(result)
    assert len({len(line) for line in report.text_table(cells).splitlines()}) == 1
    lines = report.markdown_table(cells).splitlines()
    assert len(lines) == len(cells) + 1
    assert len({line.count("|") for line in lines}) == 1


def test_the_summary_names_the_best_baseline(result):
    ours, best = result["retention"]["value"], result["baselines"]["uniform"]["retention"]["value"]
    assert f"{100 * (ours - best):.1f} points above the best baseline (uniform)" in retention_summary(result)
    assert "Unpruned: mean accuracy 90.0 %" in retention_summary(results().result(None, 1.0).to_dict())


def test_the_summary_names_the_kinds_that_retention_leaves_out(result):
    assert "leaves out" not in retention_summary(result)
    blind = {**result, "unpruned": {"existence": 1.0, "counting": 0.0, "mean": 0.5}}
    assert retention_summary(blind) == (
        f"{retention_sentence(result)} Retention leaves out counting, where the unpruned model has nothing right."
    )


def test_a_model_that_answers_nothing_still_gets_a_table():
    none = results()
    silent = {name: PlanOutcome(one.answers, np.zeros(10), one.tokens) for name, one in none.outcomes.items()}
    result = BenchmarkOutcomes("nano", "scenes", KINDS, none.questions, silent).result("x", 0.1, "ours").to_dict()
    assert result["retention"] == {"value": None, "low": None, "high": None}
    assert accuracy_table(result)[-1][-1] == "-"
    assert retention_summary(result)
    assert sweep_table([result])


def test_the_sweep_is_ordered_by_tokens(result):
    wide = result | {"prune_ratio": 0.22, "tokens": {"entering": 200, "averaged": 127.0, "final": 70}}
    cells = sweep_table([result, wide])
    assert [row[0] for row in cells] == ["prune_ratio", "0.22", "0.055"]
    assert cells[1][4] == "uniform"


def test_the_page_holds_the_table_and_the_pictures(result, tmp_path):
    page = write_report(result, tmp_path / "report.md", [tmp_path / "tokens.png"]).read_text()
    assert report.markdown_table(accuracy_table(result)) in page
    assert "![tokens](tokens.png)" in page


def test_every_answer_is_written(tmp_path):
    lines = results().write_answers(tmp_path / "answers.csv").read_text().splitlines()
    assert lines[0] == "scene,kind,question,answer,unpruned,ours,random,uniform"
    assert lines[1] == "0,existence,is it?,yes,yes,yes,yes,yes"
    assert len(lines) == 11


def test_each_answer_stands_in_the_row_of_its_question_and_the_column_of_its_plan(tmp_path):
    given = {name: tuple(f"{name} {i}" for i in range(10)) for name in (UNPRUNED, "ours")}
    outcomes = {name: PlanOutcome(texts, np.ones(10), TOKENS) for name, texts in given.items()}
    found = BenchmarkOutcomes("nano", "scenes", KINDS, results().questions, outcomes)
    lines = found.write_answers(tmp_path / "answers.csv").read_text().splitlines()[1:]
    assert [line.split(",")[4:] for line in lines] == [[f"unpruned {i}", f"ours {i}"] for i in range(10)]


def test_an_interval_runs_from_low_to_high():
    assert report.percent_interval({"value": 0.937, "low": 0.91, "high": 0.962}) == "93.7 [91.0, 96.2]"
    assert report.percent_interval({"value": None, "low": None, "high": None}) == "-"
