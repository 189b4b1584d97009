"""The accuracy task hands its settings to where they act."""

import json
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from learnpruner.backbones import load_backbone
from learnpruner.benchmarks.base import UNTOLD
from learnpruner.benchmarks.scenes import ScenesBenchmark
from learnpruner.evaluation import accuracy_task as accuracy
from learnpruner.evaluation import evaluator
from learnpruner.evaluation.accuracy_task import AccuracyTask
from learnpruner.evaluation.task import TaskContext
from learnpruner.plan import Plan
from learnpruner.plan.build import build_baselines
from learnpruner.plan.pruner_configs import PrunerConfigs
from tests.tiny_folder import tiny_folder


def test_the_evaluation_gets_the_limit_the_batch_and_the_length_of_answers(monkeypatch, tmp_path):
    def evaluate(backbone, plans, dataset, limit=None, batch_size=25, max_new_tokens=6, cache=None):
        raise RuntimeError(f"{limit} {batch_size} {max_new_tokens}")

    monkeypatch.setattr(accuracy, "evaluate", evaluate)
    with pytest.raises(RuntimeError, match="9 4 3"):
        AccuracyTask(ScenesBenchmark(), limit=9, batch_size=4, max_new_tokens=3).run(TaskContext(None, tmp_path))


@pytest.mark.parametrize("looks", [1, 3])
def test_the_picture_shows_as_many_examples_as_are_asked_for(monkeypatch, tmp_path, looks):
    shown = []
    monkeypatch.setattr(accuracy, "family_of", lambda model: SimpleNamespace(tokens=64, layers=8))
    monkeypatch.setattr(accuracy, "run_examples", lambda *given: shown.extend(given[2:5:2]))
    monkeypatch.setattr("learnpruner.evaluation.plots.draw_looks", lambda looks, path, title: path)
    task = AccuracyTask(ScenesBenchmark(), num_examples=looks, max_new_tokens=2)
    assert task.picture(SimpleNamespace(model=None), Plan(), tmp_path) == tmp_path
    assert [one.question for one in shown[0]] == [ScenesBenchmark()[i].question for i in range(looks)] and shown[1] == 2


@pytest.fixture(scope="module")
def context(tmp_path_factory):
    """A tiny backbone with a plan and a baseline; the folder is not there yet."""
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("tiny")
    backbone = load_backbone(tiny_folder(folder))
    made = build_baselines(PrunerConfigs(), {"own": "learnpruner", "random": "random"}, 0.2, backbone)
    return TaskContext(backbone, folder, made["own"], "x", "own", {"random": made["random"]})


@pytest.mark.parametrize("after", [0, 1, 5])
def test_a_killed_evaluation_goes_on_and_ends_with_equal_numbers(context, after, monkeypatch, tmp_path):
    """Three batches under three plans; nothing that was answered is asked again."""
    made, original = [], evaluator.generate_and_verify

    def answer(*given):
        if len(made) == answer.until:
            raise KeyboardInterrupt
        made.append(given)
        return original(*given)

    def run(folder, **settings):
        task = AccuracyTask(ScenesBenchmark(), 7, 3, 2, num_examples=0, **settings)
        (tmp_path / folder).mkdir()
        path, text = task.run(replace(context, folder=tmp_path / folder))
        assert path == tmp_path / folder / "results.json"
        return {**json.loads(path.read_text()), "commit": None}, text, (path.parent / "answers.csv").read_text()

    monkeypatch.setattr(evaluator, "generate_and_verify", answer)
    answer.until = None
    whole = run("whole")
    assert len(made) == 9
    made.clear()
    answer.until = after
    with pytest.raises(KeyboardInterrupt):
        run("killed")
    answer.until = None
    assert run("again", resume=str(tmp_path / "killed")) == whole and len(made) == 9


def test_a_folder_to_go_on_from_must_be_there():
    with pytest.raises(ValueError, match=r"benchmark\.resume=nowhere is no folder"):
        AccuracyTask(ScenesBenchmark(), resume="nowhere")


def test_answers_to_a_benchmark_that_does_not_tell_its_arguments_are_of_this_process_alone():
    class Secretive(ScenesBenchmark):
        def __init__(self, key, seed=0):
            super().__init__(seed=seed)

    assert Secretive("own", 3).arguments() == {"key": UNTOLD, "seed": 3}
