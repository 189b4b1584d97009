"""Turns: every plan on the same batch, answers equal to the evaluation's, and a run that was stopped goes on."""

import json
from pathlib import Path

import pytest
import torch

from learnpruner.backbones import load_backbone
from learnpruner.benchmarks.scenes import ScenesBenchmark
from learnpruner.comparison import turns as module
from learnpruner.comparison.turns import Turn, speedup, turns
from learnpruner.evaluation.answer_cache import run_key
from learnpruner.evaluation.evaluator import evaluate
from learnpruner.evaluation.results import UNPRUNED
from learnpruner.plan.build import build_baselines
from tests.tiny_folder import tiny_folder

ROOT = Path(__file__).parents[2]
ABOUT = {"backbone": "tiny", "commit": "abc"}


@pytest.fixture(scope="module")
def backbone(tmp_path_factory):
    torch.set_num_threads(1)
    return load_backbone(tiny_folder(tmp_path_factory.mktemp("tiny")))


@pytest.fixture(scope="module")
def plans(backbone):
    found = build_baselines(
        ROOT / "conf" / "pruner", {"random": "random", "uniform+text": "uniform_text"}, 0.2, backbone
    )
    return {UNPRUNED: None, **found}


def run(backbone, plans, path, samples=7, about=ABOUT):
    return turns(backbone, plans, ScenesBenchmark(), samples, 3, 4, path, about)


def test_turns_are_what_the_evaluation_finds(backbone, plans, tmp_path):
    taken = list(run(backbone, plans, tmp_path / "turns.jsonl"))
    found = evaluate(backbone, {name: plan for name, plan in plans.items() if plan}, ScenesBenchmark(), 7, 3, 4)
    assert [len(turn.text) for turn in taken] == [3, 3, 1]
    for name, outcome in found.outcomes.items():
        assert tuple(answer for turn in taken for answer in turn.answers[name]) == outcome.answers
        assert [score for turn in taken for score in turn.scores[name]] == outcome.scores.tolist()
    assert tuple(question for turn in taken for question in turn.questions) == found.questions


def test_a_stopped_run_goes_on_without_repeating(backbone, plans, tmp_path, monkeypatch):
    whole = list(run(backbone, plans, tmp_path / "whole.jsonl"))
    part, path = run(backbone, plans, tmp_path / "turns.jsonl"), tmp_path / "turns.jsonl"
    next(part)
    next(part)
    part.close()
    text = path.read_text()
    path.write_text(text[:-20])  # killed while it wrote the second batch
    calls = []
    take = module.take_turn
    monkeypatch.setattr(module, "take_turn", lambda *args: calls.append(1) or take(*args))
    again = list(run(backbone, plans, path))
    assert len(calls) == 2
    assert [(turn.questions, turn.answers, turn.scores) for turn in again] == [
        (turn.questions, turn.answers, turn.scores) for turn in whole
    ]
    assert len(path.read_text().splitlines()) == 1 + 3
    assert list(run(backbone, plans, path)) == again  # read back as they were
    assert len(calls) == 2


@pytest.mark.parametrize("changed", ["plans", "commit", "samples"])
def test_answers_under_other_circumstances_are_refused(backbone, plans, tmp_path, changed):
    path = tmp_path / "turns.jsonl"
    part = run(backbone, plans, path)
    next(part)
    part.close()
    less = {UNPRUNED: None} if changed == "plans" else plans
    about = ABOUT | ({"commit": "def"} if changed == "commit" else {})
    with pytest.raises(ValueError, match=f"another {changed}"):
        next(run(backbone, less, path, 6 if changed == "samples" else 7, about))


@pytest.mark.parametrize("changed", ["budget", "seed", "split"])
def test_answers_of_another_plan_or_benchmark_of_the_same_name_are_refused(backbone, plans, tmp_path, changed):
    path = tmp_path / "turns.jsonl"
    next(run(backbone, plans, path))
    names = {"random": "random", "uniform+text": "uniform_text"}
    ratio = 0.3 if changed == "budget" else 0.2
    other = {UNPRUNED: None, **build_baselines(ROOT / "conf" / "pruner", names, ratio, backbone)}
    scenes = ScenesBenchmark("validation" if changed == "split" else "test", seed=int(changed == "seed"))
    with pytest.raises(ValueError, match="another plans"):
        next(turns(backbone, other, scenes, 7, 3, 4, path, ABOUT))


def test_the_header_is_written_once(backbone, plans, tmp_path):
    path = tmp_path / "turns.jsonl"
    list(run(backbone, plans, path, samples=2))
    header = json.loads(path.read_text().splitlines()[0])
    keys = {name: run_key(backbone, plan, ScenesBenchmark(), 3) for name, plan in plans.items()}
    assert header == ABOUT | {"samples": 2, "batch_size": 3, "max_new_tokens": 4, "plans": keys}


def test_the_speedup_is_paired_by_batch():
    def turn(unpruned, pruned):
        return Turn([], [], {}, {}, {UNPRUNED: unpruned, "a": pruned})

    assert speedup([turn(10.0, 5.0), turn(90.0, 30.0), turn(8.0, 2.0)], "a") == 3.0
