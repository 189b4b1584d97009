"""The plugin against a stand-in of lmms-eval that checks the interface: the entry point, the class, requests and answers."""

import abc
import importlib
import sys
import tomllib
import types
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

from learnpruner.backbones import load_backbone
from learnpruner.benchmarks.prompting import encode_prompts
from learnpruner.evaluation.generation import generate_and_verify
from learnpruner.plan.build import build_baselines
from learnpruner.plan.pruner_configs import PrunerConfigs
from tests.tiny_benchmarks import color
from tests.tiny_folder import tiny_folder

ROOT = Path(__file__).parents[2]
WORDS = ["what color is it?", "is it red or blue?", "where?", "how many things are there in it?", "is it?"]


@dataclass(frozen=True)
class ModelManifest:
    """As in lmms_eval.models.registry_v2."""

    model_id: str
    simple_class_path: str | None = None
    chat_class_path: str | None = None
    aliases: tuple[str, ...] = ()

    def __post_init__(self):
        assert self.simple_class_path or self.chat_class_path


class Lmms(abc.ABC):
    """As in lmms_eval.api.model: the evaluator fills task_dict and cache_hook, and asks for rank and world_size."""

    is_simple = True

    def __init__(self):
        self._rank, self._world_size, self.task_dict = 0, 1, {}
        self.cached = []
        self.cache_hook = types.SimpleNamespace(add_partial=lambda *entry: self.cached.append(entry))

    rank = property(lambda self: self._rank)
    world_size = property(lambda self: self._world_size)

    @classmethod
    def create_from_arg_string(cls, text, more):
        """Numbers become numbers; settings that are None are left to the model."""
        pairs = (pair.split("=", 1) for pair in text.split(","))
        given = {key: float(value) if value.replace(".", "", 1).isdigit() else value for key, value in pairs}
        return cls(**given, **{key: value for key, value in more.items() if value is not None})

    @abc.abstractmethod
    def loglikelihood(self, requests): ...

    @abc.abstractmethod
    def generate_until(self, requests): ...

    @abc.abstractmethod
    def generate_until_multi_round(self, requests): ...


@dataclass
class Request:
    args: tuple


@pytest.fixture
def registered(monkeypatch):
    """The class that lmms-eval gets from our entry point, checked as its registry checks it."""
    modules = {name: types.ModuleType(name) for name in ("lmms_eval", "lmms_eval.api", "lmms_eval.models")}
    modules["lmms_eval.api.model"] = types.SimpleNamespace(lmms=Lmms)
    modules["lmms_eval.models.registry_v2"] = types.SimpleNamespace(ModelManifest=ModelManifest)
    for name, module in modules.items():
        monkeypatch.setitem(sys.modules, name, module)
    monkeypatch.delitem(sys.modules, "learnpruner.integrations.lmms_eval.model", raising=False)
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    (target,) = project["entry-points"]["lmms_eval.models"].values()
    module, function = target.split(":")
    manifest = getattr(importlib.import_module(module), function)()
    assert isinstance(manifest, ModelManifest) and manifest.model_id == "learnpruner"
    module, name = manifest.chat_class_path.rsplit(".", 1)
    found = getattr(importlib.import_module(module), name)
    assert issubclass(found, Lmms) and not found.is_simple
    return found


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    torch.set_num_threads(1)
    return tiny_folder(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="module")
def export(folder, tmp_path_factory):
    plan = build_baselines(PrunerConfigs(), {"own": "learnpruner"}, 0.2, load_backbone(folder))["own"]
    return plan.save(tmp_path_factory.mktemp("export") / "own")


@pytest.fixture
def make(registered, folder, export):
    def start(plan=True, batch_size=None, more=""):
        text = f"pretrained={folder},dtype=float32{f',plan={export}' if plan else ''}{more}"
        model = registered.create_from_arg_string(
            text, {"batch_size": batch_size, "device": "cpu", "max_batch_size": None}
        )
        model.task_dict = {"tiny": {"test": WORDS}}
        return model

    return start


def messages(row):
    content = [{"type": "image", "url": color(WORDS.index(row))}, {"type": "text", "text": row}]
    return [{"role": "user", "content": content}]


def requests(settings=None, order=(0, 1, 2, 3, 4)):
    given = {"max_new_tokens": 5, "temperature": 0, "do_sample": False, **(settings or {})}
    return [Request((WORDS[i], messages, dict(given), i, "tiny", "test")) for i in order]


def ours(folder, plan):
    backbone = load_backbone(folder)
    return [
        generate_and_verify(backbone, plan, encode_prompts(backbone, [color(i)], [word]), 5)[0]
        for i, word in enumerate(WORDS)
    ]


def test_answers_are_those_of_the_plan_on_the_backbone(make, folder, export):
    import learnpruner

    pruned, unpruned = ours(folder, learnpruner.load(export).prepare(load_backbone(folder).family)), ours(folder, None)
    model = make()
    assert model.generate_until(requests()) == pruned != unpruned
    assert make(plan=False).generate_until(requests()) == unpruned
    assert model.cached[0] == ("generate_until", (WORDS[0], requests()[0].args[2]), pruned[0])


def test_answers_keep_the_order_of_the_requests_in_batches_of_equal_settings(make):
    model, alone = make(batch_size=2), make()
    mixed = requests(order=[4, 0]) + requests({"max_new_tokens": 2}, [1]) + requests(order=[3, 2])
    assert model.generate_until(mixed) == alone.generate_until(mixed)
    assert model.generate_until([]) == []


def test_an_answer_ends_before_a_stop_string(make):
    model = make()
    full = model.generate_until(requests())
    stop = full[0].split()[1]
    assert model.generate_until(requests({"until": [stop, ""]})) == [text.split(stop)[0] for text in full]
    assert model.generate_until(requests({"until": stop})) == [text.split(stop)[0] for text in full]


def test_prompts_without_a_picture_and_with_two(make):
    model = make()

    def none(row):
        return [{"role": "user", "content": [{"type": "text", "text": row}]}]

    def two(row):
        return [{"role": "user", "content": [*messages(row)[0]["content"], {"type": "image", "url": color(9)}]}]

    for ask, pictures in ((none, 0), (two, 2)):
        assert (
            model.encode([ask(WORDS[0])])["input_ids"] == model.backbone.model.config.image_token_id
        ).sum() == 64 * pictures
        (text,) = model.generate_until([Request((WORDS[0], ask, {"max_new_tokens": 3}, 0, "tiny", "test"))])
        assert text


def test_another_budget_and_what_is_refused(make):
    assert make(more=",prune_ratio=0.5").plan.prune_ratio == 0.5
    with pytest.raises(ValueError, match=r"prune_ratio=0\.5 needs plan=PATH"):
        make(plan=False, more=",prune_ratio=0.5")
    for refused in (make().loglikelihood, make().generate_until_multi_round):
        with pytest.raises(NotImplementedError, match="generate_until"):
            refused([])


def test_a_temperature_is_passed_on(registered):
    arguments = sys.modules[registered.__module__].generate_arguments
    assert arguments({"temperature": 0.7, "top_p": 0.9})["do_sample"] is True
    assert arguments({}) == {"max_new_tokens": 1024, "do_sample": False, "num_beams": 1, "use_cache": True}
