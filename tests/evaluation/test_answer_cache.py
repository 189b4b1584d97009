"""Answers survive a kill: what is on disk is found again, cut lines and doubles do no harm, keys tell runs apart."""

import inspect
import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from learnpruner.backbones import load_backbone
from learnpruner.benchmarks import pope as pope_module
from learnpruner.benchmarks import scoring
from learnpruner.benchmarks.pope import Pope
from learnpruner.benchmarks.public import AnsweredExample
from learnpruner.evaluation.answer_cache import AnswerLog, run_key
from learnpruner.plan.build import build_baselines
from tests.tiny_benchmarks import pope
from tests.tiny_folder import tiny_folder

PRUNERS = Path(__file__).parents[2] / "conf" / "pruner"
NAMES = {"benchmark": "pope", "plan": "own"}


def sample(i, prediction="yes"):
    return AnsweredExample(f"id{i}", "kind", "scene", "question?", "yes", prediction, 1.0, {"options": {"A": "红"}})


def test_what_was_written_is_read_again(tmp_path):
    log = AnswerLog(tmp_path / "answers")
    log.add("k", NAMES, {0: sample(0), 7: sample(7)})
    log.add("other", NAMES, {0: sample(0, "no")})
    again = AnswerLog(tmp_path / "answers", rank=3)
    assert again.found == log.found == {("k", 0): sample(0), ("k", 7): sample(7), ("other", 0): sample(0, "no")}
    assert again.has("k", 7) and not again.has("k", 1)


def test_a_line_that_a_kill_cut_is_left_out_and_the_next_one_is_whole(tmp_path, caplog):
    AnswerLog(tmp_path).add("k", NAMES, {0: sample(0), 1: sample(1)})
    path = tmp_path / "rank0.jsonl"
    path.write_bytes(path.read_bytes()[:-30])
    log = AnswerLog(tmp_path)
    assert list(log.found) == [("k", 0)]
    assert "cut short" in caplog.text
    log.add("k", NAMES, {1: sample(1), 2: sample(2)})
    assert list(AnswerLog(tmp_path).found) == [("k", 0), ("k", 1), ("k", 2)]


def test_a_sample_in_two_files_counts_once(tmp_path):
    AnswerLog(tmp_path, 0).add("k", NAMES, {0: sample(0, "first")})
    (tmp_path / "rank1.jsonl").write_text((tmp_path / "rank0.jsonl").read_text().replace("first", "second"))
    assert AnswerLog(tmp_path).found == {("k", 0): sample(0, "first")}


def test_a_line_can_be_read_without_this_program(tmp_path):
    AnswerLog(tmp_path).add("k", NAMES, {4: sample(4)})
    record = json.loads((tmp_path / "rank0.jsonl").read_text())
    assert (record["benchmark"], record["plan"], record["index"]) == ("pope", "own", 4)
    assert record["sample"]["question"] == "question?"


@pytest.fixture(scope="module")
def backbone(tmp_path_factory):
    torch.set_num_threads(1)
    return load_backbone(tiny_folder(tmp_path_factory.mktemp("tiny")))


class OtherWords(Pope):
    """POPE in other words, as a later version of the benchmark may ask."""

    def example(self, row):
        one = super().example(row)
        return replace(one, question=f"Look closely. {one.question}")


def test_answers_to_another_wording_or_under_another_rule_are_other_answers(backbone, tmp_path, monkeypatch):
    source = str(pope(tmp_path / "pope"))
    key = run_key(backbone, None, Pope(source), 8)
    assert run_key(backbone, None, OtherWords(source), 8) != key
    written = inspect.getsource
    for changed in (pope_module, scoring):
        monkeypatch.setattr(inspect, "getsource", lambda one, it=changed: written(one) + ("#" if one is it else ""))
        assert run_key(backbone, None, Pope(source), 8) != key


def test_the_key_changes_with_all_that_an_answer_depends_on(backbone, tmp_path):
    source = str(pope(tmp_path / "pope"))
    benchmark = Pope(source)
    asked = {"own": "learnpruner", "cls": "fastervlm"}
    plans = build_baselines(PRUNERS, asked, 0.2, backbone)
    same, other_seed = (build_baselines(PRUNERS, asked, 0.2, backbone, seed)["own"] for seed in (0, 1))
    wider = build_baselines(PRUNERS, asked, 0.3, backbone)["own"]
    key = run_key(backbone, plans["own"], benchmark, 8)
    assert run_key(backbone, same, Pope(source), 8) == key != run_key(backbone, same, Pope(source), 4)
    others = [(None, benchmark), (plans["cls"], benchmark), (other_seed, benchmark), (wider, benchmark)]
    others += [(plans["own"], Pope(source, max_new_tokens=3)), (plans["own"], Pope(source, parser="strict"))]
    assert len({key, *(run_key(backbone, plan, one, 8) for plan, one in others)}) == 7
