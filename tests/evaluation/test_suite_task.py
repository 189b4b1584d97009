"""Several benchmarks in one run: the papers' table, resumed after a kill, over processes; nothing twice, nothing lost."""

import json
import runpy
import signal
import sys
from pathlib import Path

import pytest

from learnpruner.benchmarks.gqa import Gqa
from learnpruner.benchmarks.mme import Mme
from learnpruner.benchmarks.pope import Pope
from learnpruner.evaluation import evaluator
from learnpruner.evaluation import paper_results as reference
from learnpruner.evaluation.suite_task import BenchmarkSuiteTask
from learnpruner.evaluation.table_format import decimal
from learnpruner.evaluation.task import TaskContext
from learnpruner.plan.build import build_baselines
from learnpruner.plan.pruner_configs import PrunerConfigs
from tests.tiny_benchmarks import gqa, mme, parquet, pope
from tests.utils.test_distributed import launch

ROOT = Path(__file__).parents[2]
SHORT = {"max_new_tokens": 3}


@pytest.fixture(scope="module")
def plans(backbone):
    return build_baselines(PrunerConfigs(), {"own": "learnpruner", "random": "random"}, 0.2, backbone)


@pytest.fixture(scope="module")
def folders(backbone, tmp_path_factory):
    """POPE and MME, and a GQA whose right answers are what the unpruned model says, so that it scores."""
    root = tmp_path_factory.mktemp("data")
    made = {"pope": pope(root / "pope"), "mme": mme(root / "mme"), "gqa": gqa(root / "gqa")}
    first = BenchmarkSuiteTask({"gqa": Gqa(str(made["gqa"]), **SHORT)}, batch_size=5)
    first.run(TaskContext(backbone, root / "echo"))
    lines = [
        json.loads(line)["sample"] for line in (root / "echo" / "answers" / "rank0.jsonl").read_text().splitlines()
    ]
    rows = [
        {
            "id": one["id"],
            "imageId": one["scene"],
            "question": one["question"].split("\n")[0],
            "answer": one["prediction"],
        }
        for one in lines
    ]
    (made["gqa"] / "testdev_balanced_instructions" / "testdev-00000-of-00001.parquet").unlink()
    parquet(made["gqa"] / "testdev_balanced_instructions", "testdev", rows)
    return {name: str(path) for name, path in made.items()}


@pytest.fixture
def benchmarks(folders):
    return {
        "pope": Pope(folders["pope"], **SHORT),
        "gqa": Gqa(folders["gqa"], **SHORT),
        "mme": Mme(folders["mme"], **SHORT),
    }


@pytest.fixture
def run(backbone, plans, benchmarks):
    """Runs the plan beside the random one: results.json, the printed text."""

    def start(folder, plan=plans["own"], **settings):
        task = BenchmarkSuiteTask(benchmarks, **{"batch_size": 5, **settings})
        path, text = task.run(TaskContext(backbone, folder, plan, "x", "own", {"random": plans["random"]}))
        return json.loads(path.read_text()) if path.name == "results.json" else path, text

    return start


@pytest.fixture
def calls(monkeypatch):
    """Every batch that a plan answers; raises KeyboardInterrupt after so many."""
    made, original = [], evaluator.generate_and_verify

    def answer(backbone, plan, inputs, max_new_tokens):
        if len(made) == answer.until:
            raise KeyboardInterrupt
        made.append(len(inputs["input_ids"]))
        return original(backbone, plan, inputs, max_new_tokens)

    answer.until = None
    monkeypatch.setattr(evaluator, "generate_and_verify", answer)
    return made, answer


def lines(folder):
    return [
        json.loads(line)
        for path in sorted((folder / "answers").glob("*.jsonl"))
        for line in path.read_text().splitlines()
    ]


def places(folder):
    return [(one["key"], one["index"]) for one in lines(folder)]


def same(first, second):
    """Equal but for the commit, which may move while tests run."""
    return {**first, "commit": None} == {**second, "commit": None}


def test_results_keep_the_keys_of_every_task_and_hold_the_papers_numbers(run, tmp_path):
    result, text = run(tmp_path)
    assert {"plan", "tokens", "accuracy", "unpruned", "retention", "baselines", "scores", "samples"} <= set(result)
    assert result["samples"] == 12 + 6 + 28
    assert result["scores"]["unpruned"]["gqa"]["score"] == 100
    assert result["accuracy"]["gqa"] == result["scores"]["own"]["gqa"]["score"] / 100 < 1
    assert result["accuracy"]["mme"] == pytest.approx(result["scores"]["own"]["mme"]["score"] / 2800)
    ratios = [
        result["scores"]["own"][name]["score"] / result["scores"]["unpruned"][name]["score"]
        for name in ("pope", "gqa", "mme")
        if result["scores"]["unpruned"][name]["score"]
    ]
    assert result["retention"]["value"] == pytest.approx(sum(ratios) / len(ratios))
    assert result["tokens"]["averaged"] == pytest.approx(0.2 * 64, abs=1)
    random = result["baselines"]["random"]["tokens"]  # drops all that it drops before the language model
    assert random["entering"] == random["final"] == 13 < result["tokens"]["entering"]
    assert result["prune_ratio"] == 0.2 and result["image_aspect"] == "processor" and result["batch_size"] == 5
    assert {name: one["samples"] for name, one in result["settings"].items()} == {"pope": 12, "gqa": 6, "mme": 28}
    assert [line.split()[0] for line in text.splitlines()[2:5]] == ["unpruned", "random", "own"]
    assert (tmp_path / "report.md").read_text().count("|") > 20


def test_the_columns_stand_in_the_papers_order(run, tmp_path):
    assert run(tmp_path)[1].splitlines()[0].split()[:5] == ["plan", "tokens", "GQA", "POPE", "MME"]


def test_the_limit_takes_the_first_of_each(run, tmp_path, backbone, benchmarks):
    result, _ = run(tmp_path, limit=4)
    assert result["samples"] == 12
    for name in benchmarks:
        ids = [one["sample"]["id"] for one in lines(tmp_path) if (one["benchmark"], one["plan"]) == (name, "own")]
        assert ids == [benchmarks[name][i].id for i in range(4)]


def test_the_notes_say_what_a_limit_left_out_and_what_relacc_leaves_out(run, benchmarks, folders, tmp_path):
    """Its first four questions are of one split of POPE, and of two categories of MME; GQA's answers are made unreachable."""
    benchmarks["gqa"].rows = benchmarks["gqa"].rows.map(lambda row: {"answer": "not this"})
    notes = run(tmp_path, limit=4)[1].split("\n\n")[1].splitlines()
    assert notes[:3] == [
        "GQA: accuracy, exact match without case and punctuation, 4 samples.",
        "POPE: F1 of adversarial alone, not of all three splits, 4 samples.",
        "MME: perception + cognition, 2 of the 14 categories alone, 4 samples.",
    ]
    assert "GQA" in notes[3].split("without ")[1].split(", where the unpruned model scores nothing")[0]
    whole = run(tmp_path / "whole")[1].split("\n\n")[1].splitlines()
    assert whole[1] == "POPE: F1, mean of the three splits, 12 samples."
    assert whole[2] == "MME: perception + cognition, 28 samples."


@pytest.mark.parametrize("after", [0, 1, 4, 20])
def test_a_killed_run_goes_on_without_repeating_and_ends_with_equal_numbers(run, calls, tmp_path, after):
    made, answer = calls
    whole, _ = run(tmp_path / "whole")
    total, made[:] = len(made), []
    answer.until = after
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "killed")
    assert len(made) == after
    answer.until = None
    again, _ = run(tmp_path / "new", resume=str(tmp_path / "killed"))
    assert len(made) == total == 3 * (3 + 2 + 6)
    assert same(again, whole)
    assert sorted(places(tmp_path / "killed")) == sorted(set(places(tmp_path / "killed")))
    assert not (tmp_path / "new").exists()


def test_a_line_cut_in_the_middle_costs_one_batch(run, calls, tmp_path):
    made, _ = calls
    whole, _ = run(tmp_path)
    path, before = tmp_path / "answers" / "rank0.jsonl", len(made)
    path.write_bytes(path.read_bytes()[:-30])
    assert same(run(tmp_path, resume=str(tmp_path))[0], whole)
    assert len(made) == before + 1
    cut, *whole_lines = sorted(path.read_text().splitlines(), key=lambda line: line.endswith("}}"))
    found = [(one["key"], one["index"]) for one in map(json.loads, whole_lines)]
    assert not cut.endswith("}}")
    assert len(found) == len(set(found)) == 3 * (12 + 6 + 28)


def test_another_plan_in_the_same_folder_reuses_the_unpruned_answers(run, calls, plans, backbone, tmp_path):
    made, _ = calls
    first, _ = run(tmp_path)
    made.clear()
    wider = build_baselines(PrunerConfigs(), {"own": "learnpruner"}, 0.5, backbone)["own"]
    second, _ = run(tmp_path, plan=wider, resume=str(tmp_path))
    assert len(made) == 3 + 2 + 6
    assert second["unpruned"] == first["unpruned"] and second["tokens"] != first["tokens"]
    assert json.loads((tmp_path / "results_1.json").read_text()) == first  # nothing is lost
    run(tmp_path, plan=wider, resume=str(tmp_path))
    assert not (tmp_path / "results_2.json").exists()


def test_other_settings_are_other_answers(run, calls, folders, benchmarks, tmp_path):
    made, _ = calls
    run(tmp_path)
    made.clear()
    benchmarks["pope"] = Pope(folders["pope"], max_new_tokens=2)
    run(tmp_path, resume=str(tmp_path))
    assert len(made) == 3 * 3


def test_shards_by_hand_and_a_merge(run, calls, tmp_path):
    made, _ = calls
    whole, _ = run(tmp_path / "whole")
    made.clear()
    shared = str(tmp_path / "shared")
    path, text = run(tmp_path / "a", resume=shared, shard="0/2")
    assert path == Path(shared) / "answers"
    assert "shard 0/2 is done" in text and f"benchmark.resume={shared}" in text
    last, _ = run(tmp_path / "b", resume=shared, shard="1/2")
    assert same(last, whole)  # the last shard finds nothing missing
    merged, _ = run(tmp_path / "c", resume=shared)
    assert same(merged, whole)
    assert len(made) == 3 * (3 + 2 + 6)
    assert sorted(places(Path(shared))) == sorted(set(places(tmp_path / "whole")))


def test_what_cannot_be_gone_on_with_is_refused(benchmarks, tmp_path):
    with pytest.raises(ValueError, match=r"nowhere is no folder"):
        BenchmarkSuiteTask(benchmarks, resume="nowhere")
    with pytest.raises(ValueError, match=r"shard=0/2 needs benchmark\.resume=FOLDER"):
        BenchmarkSuiteTask(benchmarks, shard="0/2")
    for settings in ({"limit": 0}, {"batch_size": 0}, {"baselines_to_run": ["nobody"]}):
        with pytest.raises(ValueError, match=f"benchmark.{next(iter(settings))}"):
            BenchmarkSuiteTask(benchmarks, **settings)


def command(folders, backbone, *more):
    """eval.py's arguments for POPE and GQA."""
    sources = [
        f"benchmark.datasets.{name}.{key}"
        for name in ("pope", "gqa")
        for key in (f"source={folders[name]}", "max_new_tokens=3")
    ]
    return [
        "benchmark=[pope,gqa]",
        *sources,
        "pruner=learnpruner",
        "prune_ratio=0.2",
        f"backbone.path={backbone.name}",
        "device=cpu",
        "benchmark.batch_size=3",
        *more,
    ]


def test_two_processes_count_nothing_twice(folders, backbone, tmp_path):
    program = [str(ROOT / "eval.py"), *command(folders, backbone)]
    one, two = tmp_path / "one", tmp_path / "two"
    launch(1, [*program, f"hydra.run.dir={one}"], tmp_path)
    first, second = launch(2, [*program, f"hydra.run.dir={two}"], tmp_path)
    assert "RelAcc" in first and "RelAcc" not in second
    assert [path.name for path in sorted((two / "answers").iterdir())] == ["rank0.jsonl", "rank1.jsonl"]
    assert len(places(two)) == len(set(places(two))) == 2 * (12 + 6)
    assert set(places(two)) == set(places(one))
    alone, together = (json.loads((folder / "results.json").read_text()) for folder in (one, two))
    assert same(together, alone)


KILLED = """
import os, runpy, signal, sys
from learnpruner.evaluation import evaluator

answered, left = evaluator.generate_and_verify, [3]

def answer(*arguments):
    left[0] -= 1
    if left[0] < 0:
        os.kill(os.getpid(), signal.SIGKILL)
    return answered(*arguments)

evaluator.generate_and_verify, sys.argv = answer, sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def test_two_processes_that_were_killed_go_on_where_they_were(folders, backbone, tmp_path):
    program = [str(ROOT / "eval.py"), *command(folders, backbone)]
    launch(2, ["-c", KILLED, *program, f"hydra.run.dir={tmp_path / 'killed'}"], tmp_path, ends=-signal.SIGKILL)
    killed = places(tmp_path / "killed")
    assert len(killed) == len(set(killed)) == 2 * 3 * 3  # three batches of three rows each
    launch(2, [*program, f"hydra.run.dir={tmp_path / 'new'}", f"benchmark.resume={tmp_path / 'killed'}"], tmp_path)
    after = places(tmp_path / "killed")
    assert len(after) == len(set(after)) == 2 * (12 + 6) and set(killed) <= set(after)
    assert (tmp_path / "killed" / "results.json").is_file()


def test_a_task_of_its_own_is_refused_among_benchmarks(monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(sys, "argv", ["eval.py", "benchmark=[gqa,scenes]", f"hydra.run.dir={tmp_path}"])
    with pytest.raises(SystemExit):
        runpy.run_path(str(ROOT / "eval.py"), run_name="__main__")
    assert "error: benchmark= lists scenes or speed beside" in capsys.readouterr().err


def test_eval_prints_the_papers_rows_beside_ours(folders, backbone, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(
        sys, "argv", ["eval.py", *command(folders, backbone, f"hydra.run.dir={tmp_path}", "--reference")]
    )
    runpy.run_path(str(ROOT / "eval.py"), run_name="__main__")
    said = capsys.readouterr().out
    rows = [line.split() for line in said.splitlines() if line.startswith("paper:")]
    assert rows[0] == ["paper:", "unpruned", "576", "61.9", "85.9", "100.0"]
    assert rows[3] == ["paper:", "LearnPruner", "32", "57.2", "84.5", f"{100 * (57.2 / 61.9 + 84.5 / 85.9) / 2:.1f}"]
    assert "GQA: accuracy, exact match" in said


@pytest.mark.parametrize(("tokens", "relacc"), [(576, 100.0), (128, 98.5), (64, 96.9), (32, 94.8)])
def test_the_papers_relacc_follows_from_its_numbers(tokens, relacc):
    (row,) = [row for row in reference.paper_rows(reference.COLUMNS) if row.tokens == tokens]
    assert row.relacc == pytest.approx(relacc, abs=0.05)


def test_the_paper_has_no_number_for_some_benchmarks(benchmarks):
    row = reference.paper_rows(["vizwiz", "gqa"])[1]
    assert row.scores == {"vizwiz": None, "gqa": 60.3}
    assert row.relacc == pytest.approx(100 * 60.3 / 61.9)
    assert reference.paper_rows(["seed"])[1].relacc is None
    assert [decimal(value) for value in (None, 60.3)] == ["-", "60.3"]


def test_paths_out_of_a_benchmark_s_folder_are_a_setting_of_all_benchmarks(folders):
    made = {
        name: BenchmarkSuiteTask({"pope": Pope(folders["pope"])}, outside=name).datasets["pope"].outside
        for name in (False, True)
    }
    assert made == {False: False, True: True}
