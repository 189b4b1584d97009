"""Head weights: what the loss says of each head, in a file that HAWK reads."""

import json
from pathlib import Path

import pytest
import torch

from learnpruner import Plan, Stage
from learnpruner.backbones import load_backbone
from learnpruner.benchmarks.scenes import ScenesBenchmark
from learnpruner.data.collate import render_turn
from learnpruner.evaluation.head_importance import HeadImportanceTask, head_weights, uniform_without_head
from learnpruner.evaluation.task import TaskContext
from learnpruner.pruners.hawk import HAWK
from tests.tiny_folder import tiny_folder


@pytest.fixture(scope="module")
def backbone(tmp_path_factory):
    torch.set_num_threads(1)
    return load_backbone(tiny_folder(tmp_path_factory.mktemp("tiny"), layers=2))


def task(**settings):
    return HeadImportanceTask(ScenesBenchmark("validation"), HAWK(), limit=5, batch_size=2, **settings)


@torch.no_grad()
def test_losses_equal_the_models_own_one_prompt_at_a_time(backbone):
    weights = [None, uniform_without_head(2, 4)]
    found = task().losses(backbone, weights)
    for choice, loss in zip(weights, found, strict=True):
        plan, total, count = Plan([Stage(HAWK(choice), 0)], 0.2), 0.0, 0
        for number in range(5):
            example = ScenesBenchmark("validation")[number]
            prompt, full = render_turn(backbone.processor, example.question, example.answer)
            inputs = backbone.processor(text=full, images=example.image, return_tensors="pt")
            answer = inputs["input_ids"].shape[1] - len(
                backbone.processor(text=prompt, images=example.image)["input_ids"][0]
            )
            labels = inputs["input_ids"].clone()
            labels[:, :-answer] = -100
            with plan.on(backbone.model):
                total += float(backbone.model(**inputs, labels=labels).loss) * answer
            count += answer
        assert loss == pytest.approx(total / count, rel=1e-4)


def test_a_head_weighs_what_is_lost_without_it():
    assert head_weights(1.0, [1.1, 0.9, 1.3, 1.0]) == pytest.approx([0.25, 0.0, 0.75, 0.0])
    assert head_weights(1.0, [0.9, 0.8]) == [0.5, 0.5]
    assert uniform_without_head(1, 3) == [0.5, 0.0, 0.5]


def test_the_file_is_what_hawk_reads(backbone, tmp_path):
    out = tmp_path / "hawk.json"
    ranking = HAWK()
    path, text = HeadImportanceTask(ScenesBenchmark("validation"), ranking, limit=2, out=str(out)).run(
        TaskContext(backbone, tmp_path)
    )
    assert path == out
    assert text.count("head") >= 4
    weights = HAWK(str(out)).weights
    assert weights == json.loads(out.read_text())["weights"]
    assert len(weights) == 4
    assert sum(weights) == pytest.approx(1)
    assert ranking.weights is None


def test_a_plan_beside_it_is_refused(backbone, tmp_path):
    with pytest.raises(ValueError, match="plan=none"):
        task().run(TaskContext(backbone, tmp_path, Plan()))


def test_the_shipped_weights_are_the_embedded_backbones():
    folder = Path(__file__).parents[2] / "checkpoints" / "nano-llava"
    heads = json.loads((folder / "config.json").read_text())["text_config"]["num_attention_heads"]
    assert len(HAWK(str(folder / "hawk.json")).weights) == heads
