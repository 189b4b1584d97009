"""Questions asked alone are answered as unmodified Hugging Face does, and a plan that drops nothing is no result."""

from contextlib import nullcontext

import pytest
import torch

from learnpruner.backbones import load_backbone
from learnpruner.benchmarks.prompting import encode_prompts
from learnpruner.data.datamodule import SceneSource
from learnpruner.kv_eviction.conversation import answer_alone
from learnpruner.plan import Plan, Stage
from learnpruner.pruners.random import RandomPruner
from tests.tiny_folder import tiny_folder


@pytest.fixture(scope="module")
def backbone(tmp_path_factory):
    return load_backbone(str(tiny_folder(tmp_path_factory.mktemp("tiny"))), device="cpu")


@pytest.fixture(scope="module")
def samples():
    source = SceneSource("test", questions=3, seed=0)
    return [source.sample(index) for index in range(2)]


def test_answers_are_those_of_the_model_under_the_plan(backbone, samples):
    plan = Plan([Stage(RandomPruner(), "encoder")], 0.25).prepare(backbone.family)
    found = {name: answer_alone(backbone, one, samples, 4) for name, one in {"none": None, "plan": plan}.items()}
    for name, on in {"none": nullcontext(), "plan": plan.on(backbone.model)}.items():
        with on, torch.inference_mode():
            for turn in range(3):
                questions = [sample.turns[turn][0] for sample in samples]
                inputs = encode_prompts(backbone, [sample.image for sample in samples], questions)
                out = backbone.model.generate(**inputs, do_sample=False, max_new_tokens=4)
                texts = backbone.processor.batch_decode(
                    out[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True
                )
                assert texts == [row[turn] for row in found[name]]
    assert found["none"] != found["plan"]


def test_a_plan_that_drops_nothing_is_refused(backbone, samples, monkeypatch):
    plan = Plan([Stage(RandomPruner(), "encoder")], 0.25).prepare(backbone.family)
    monkeypatch.setattr(plan, "on", lambda model: nullcontext())
    with pytest.raises(RuntimeError, match="the plan promises"):
        answer_alone(backbone, plan, samples, 2)
