"""Answers survive a kill: what is on disk is found again, cut lines and doubles do no harm, keys tell runs apart."""

import inspect
import json
from dataclasses import replace
from pathlib import Path

import pytest

from learnpruner.benchmarks import pope as pope_module
from learnpruner.benchmarks import scoring
from learnpruner.benchmarks.base import AnsweredExample
from learnpruner.benchmarks.pope import Pope
from learnpruner.evaluation.answer_cache import AnswerCache, CallTiming, run_key
from learnpruner.plan.build import build_baselines
from learnpruner.plan.pruner_configs import PrunerConfigs
from learnpruner.utils.errors import UserError
from tests.tiny_benchmarks import pope

PRUNERS = Path(__file__).parents[2] / "conf" / "pruner"
NAMES = {"benchmark": "pope", "plan": "own"}


def sample(i, prediction="yes"):
    return AnsweredExample(f"id{i}", "kind", "scene", "question?", "yes", prediction, 1.0, {"options": {"A": "红"}})


def add(cache, key, rows, *predictions):
    given = predictions or ["yes"] * len(rows)
    cache.add(key, NAMES, rows, [sample(row, one) for row, one in zip(rows, given, strict=True)])


def test_what_was_written_is_read_again(tmp_path):
    cache = AnswerCache(tmp_path / "answers")
    add(cache, "k", range(2))
    cache.add("other", NAMES, range(4, 5), [sample(4, "no")], CallTiming(12.5, [9]))
    again = AnswerCache(tmp_path / "answers", rank=3)
    places = {("k", 0, 2): sample(0), ("k", 1, 2): sample(1), ("other", 4, 1): sample(4, "no")}
    assert again.found == cache.found == places
    assert again.timings == cache.timings == {("other", 4, 1): CallTiming(12.5, [9])}


def test_a_line_that_a_kill_cut_is_left_out_and_the_next_one_is_whole(tmp_path, caplog):
    add(AnswerCache(tmp_path), "k", range(2))
    path = tmp_path / "rank0.jsonl"
    path.write_bytes(path.read_bytes()[:-30])
    cache = AnswerCache(tmp_path)
    assert list(cache.found) == [("k", 0, 2)]
    assert "cut short" in caplog.text
    add(cache, "k", range(2))
    assert list(AnswerCache(tmp_path).found) == [("k", 0, 2), ("k", 1, 2)]


def test_a_sample_in_two_files_counts_once(tmp_path):
    add(AnswerCache(tmp_path, 0), "k", range(1), "first")
    (tmp_path / "rank1.jsonl").write_text((tmp_path / "rank0.jsonl").read_text())
    assert AnswerCache(tmp_path).found == {("k", 0, 1): sample(0, "first")}


def test_rows_of_a_shorter_batch_are_other_answers(tmp_path):
    """The last batch of a limit: its rows round otherwise than in a whole one."""
    add(AnswerCache(tmp_path), "k", range(4, 6))
    assert ("k", 4, 8) not in AnswerCache(tmp_path).found


def test_a_line_can_be_read_without_this_program(tmp_path):
    add(AnswerCache(tmp_path), "k", range(4, 5))
    record = json.loads((tmp_path / "rank0.jsonl").read_text())
    assert (record["benchmark"], record["plan"], record["index"]) == ("pope", "own", 4)
    assert record["sample"]["question"] == "question?" and record["version"] == 1


def test_answers_of_an_earlier_version_are_refused(tmp_path):
    add(AnswerCache(tmp_path), "k", range(1))
    path = tmp_path / "rank0.jsonl"
    path.write_text(path.read_text().replace('"version": 1, ', ""))
    with pytest.raises(UserError, match=r"another version of learnpruner.*remove it"):
        AnswerCache(tmp_path)


def test_answers_under_other_circumstances_are_refused(tmp_path):
    add(AnswerCache(tmp_path, about={"commit": "abc"}), "k", range(1))
    assert AnswerCache(tmp_path, about={"commit": "abc"}).found
    with pytest.raises(UserError, match="under another commit; go on as that run was started"):
        AnswerCache(tmp_path, about={"commit": "def"})


def test_afresh_forgets_what_the_folder_holds(tmp_path):
    add(AnswerCache(tmp_path), "k", range(1))
    assert not AnswerCache(tmp_path, afresh=True).found
    assert not AnswerCache(tmp_path).found


def test_in_memory_nothing_is_written(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    cache = AnswerCache()
    add(cache, "k", range(1))
    assert cache.found and not list(tmp_path.iterdir())


class OtherWords(Pope):
    """POPE in other words, as a later version of the benchmark may ask."""

    def example(self, row):
        one = super().example(row)
        return replace(one, question=f"Look closely. {one.question}")


def test_answers_to_another_wording_or_under_another_rule_are_other_answers(backbone, tmp_path, monkeypatch):
    source = str(pope(tmp_path / "pope"))
    key = run_key(backbone, None, Pope(source), 8, 6)
    assert run_key(backbone, None, OtherWords(source), 8, 6) != key
    written = inspect.getsource
    for changed in (pope_module, scoring):
        monkeypatch.setattr(inspect, "getsource", lambda one, it=changed: written(one) + ("#" if one is it else ""))
        assert run_key(backbone, None, Pope(source), 8, 6) != key


def test_the_key_changes_with_all_that_an_answer_depends_on(backbone, tmp_path):
    source = str(pope(tmp_path / "pope"))
    benchmark = Pope(source)
    asked = {"own": "learnpruner", "cls": "fastervlm"}
    plans = build_baselines(PrunerConfigs(), asked, 0.2, backbone)
    same, other_seed = (build_baselines(PrunerConfigs(), asked, 0.2, backbone, seed)["own"] for seed in (0, 1))
    wider = build_baselines(PrunerConfigs(), asked, 0.3, backbone)["own"]
    key = run_key(backbone, plans["own"], benchmark, 8, 6)
    assert run_key(backbone, same, Pope(source), 8, 6) == key != run_key(backbone, same, Pope(source), 4, 6)
    assert run_key(backbone, same, benchmark, 8, 9) != key
    others = [(None, benchmark), (plans["cls"], benchmark), (other_seed, benchmark), (wider, benchmark)]
    others += [(plans["own"], Pope(source, max_new_tokens=3)), (plans["own"], Pope(source, parser="strict"))]
    assert len({key, *(run_key(backbone, plan, one, 8, 6) for plan, one in others)}) == 7
