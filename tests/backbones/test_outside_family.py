"""A family of another package: a renamed copy of a Hugging Face model whose projector has another name, and one class."""

import copy
import inspect
from pathlib import Path

import pytest
import torch
from tiny import ids, inputs, tiny_llava
from torch import nn
from transformers import LlavaConfig, LlavaForConditionalGeneration, LlavaModel

import learnpruner
from learnpruner.backbones import known_families, registry
from learnpruner.profiling.flops import model_dimensions
from learnpruner.pruners.fastervlm import FasterVLM
from learnpruner.pruners.text_attention import TextAttention
from learnpruner.utils.errors import UserError

FAMILY = """
import learnpruner
from learnpruner.backbones.llava import LlavaFamily

@learnpruner.register_family("my_vlm")
class MyVlmFamily(LlavaFamily):
    @property
    def projector(self):
        return self.inner_model.connector
"""
DOCS = Path(__file__).parents[2] / "docs/extending.md"


class MyVlmConfig(LlavaConfig):
    model_type = "my_vlm"


class MyVlmModel(LlavaModel):
    config_class = MyVlmConfig

    def __init__(self, config):
        super().__init__(config)
        self.connector = self._modules.pop("multi_modal_projector")

    def __getattr__(self, name):
        return self.connector if name == "multi_modal_projector" else super().__getattr__(name)


class MyVlmForConditionalGeneration(LlavaForConditionalGeneration):
    config_class = MyVlmConfig

    def __init__(self, config):
        super().__init__(config)
        self.model = MyVlmModel(config)


@pytest.fixture
def model(monkeypatch):
    """The weights of a LLaVA under other names; families that are registered meanwhile are forgotten."""
    monkeypatch.setattr(registry, "_FAMILIES", dict(registry._FAMILIES))
    twin = tiny_llava()
    made = MyVlmForConditionalGeneration(MyVlmConfig(**{**twin.config.to_dict(), "model_type": "my_vlm"}))
    weights = {name.replace("multi_modal_projector", "connector"): value for name, value in twin.state_dict().items()}
    made.load_state_dict(weights)
    made.generation_config = copy.deepcopy(twin.generation_config)
    return made.requires_grad_(False).eval()


def plan(ratio):
    stages = [learnpruner.Stage(FasterVLM(), "encoder", 3.0), learnpruner.Stage(TextAttention(), 3, 1.0)]
    return learnpruner.Plan(stages, ratio)


def test_it_prunes_as_the_family_that_it_was_copied_from(model):
    exec(FAMILY, {})
    batch, twin = inputs([ids(1), ids(1, seed=1)]), tiny_llava()
    options = {"max_new_tokens": 4, "do_sample": False}
    found = []
    for one in (model, twin):
        with plan(0.5).on(one) as engine:
            found.append(one.generate(**batch, **options))
            engine.verify()
    assert torch.equal(*found)
    assert model_dimensions(model.config) == model_dimensions(twin.config)


def test_it_takes_as_many_lines_as_the_docs_say():
    lines = [line for line in FAMILY.splitlines() if line]
    assert f"A LLaVA under other names takes {len(lines)} lines" in DOCS.read_text(encoding="utf-8")


def test_an_installed_package_names_its_family_by_an_entry_point(model, tmp_path, monkeypatch):
    with pytest.raises(UserError, match="model_type='my_vlm' is not supported yet; known families: llava"):
        plan(0.5).attach(model)
    (tmp_path / "outside_vlm.py").write_text(FAMILY.replace('@learnpruner.register_family("my_vlm")', ""))
    facts = tmp_path / "outside_vlm-1.0.dist-info"
    facts.mkdir()
    (facts / "METADATA").write_text("Metadata-Version: 2.1\nName: outside_vlm\nVersion: 1.0\n")
    (facts / "entry_points.txt").write_text("[learnpruner.families]\nmy_vlm = outside_vlm:MyVlmFamily\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    assert "my_vlm" in known_families()
    with plan(0.5).on(model) as engine, torch.inference_mode():
        model(**inputs([ids(1)]))
        engine.verify()


def test_what_is_no_family_is_refused():
    with pytest.raises(UserError, match="derive it from ModelFamily"):
        learnpruner.register_family("my_vlm")(nn.Linear)
    assert "model_type" in inspect.signature(learnpruner.register_family).parameters
