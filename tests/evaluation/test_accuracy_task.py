"""The accuracy task hands its settings to where they act."""

from types import SimpleNamespace

import pytest

from learnpruner.benchmarks.scenes import ScenesBenchmark
from learnpruner.evaluation import accuracy_task as accuracy
from learnpruner.evaluation.accuracy_task import AccuracyTask
from learnpruner.evaluation.task import TaskContext
from learnpruner.plan import Plan


def test_the_evaluation_gets_the_limit_the_batch_and_the_length_of_answers(monkeypatch, tmp_path):
    def evaluate(backbone, plans, dataset, limit=None, batch_size=25, max_new_tokens=6):
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
