"""An export names classes, and files come from a hub: only pruners are built, and every file of the plan is there."""

import fnmatch
import shutil
import sys

import pytest
import torch
from tiny import tiny_llava

import learnpruner
from learnpruner import Plan, Stage
from learnpruner import kv_eviction as kv
from learnpruner.adapters import LoraAdapter, ProjectorAdapter
from learnpruner.backbones import family_of
from learnpruner.kv_eviction.policies.trimkv import TrimKV
from learnpruner.plan import export
from learnpruner.pruners.learnpruner import LearnedPruner
from learnpruner.pruners.random import RandomPruner

EVIL = """
from pathlib import Path
Path({marker!r}).touch()
from learnpruner.pruners.random import RandomPruner
from learnpruner.kv_eviction.policies.streaming_llm import StreamingLLM
class Evil(RandomPruner): ...
class EvilPolicy(StreamingLLM): ...
"""


@pytest.fixture
def evil(tmp_path, monkeypatch):
    """Installs packages that leave a file when they are imported."""
    marker = tmp_path / "ran"
    for name in ("learnpruner_evil", "evil"):
        (tmp_path / "site" / name).mkdir(parents=True)
        (tmp_path / "site" / name / "__init__.py").write_text(EVIL.format(marker=str(marker)))
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    yield marker
    for name in ("learnpruner_evil", "evil"):
        sys.modules.pop(name, None)


TARGETS = ["learnpruner_evil.Evil", "evil.Evil", "learnpruner.evil.Evil", "learnpruner.pruners.evil.Evil", ".evil.Evil"]


@pytest.mark.parametrize("target", TARGETS)
def test_no_code_of_another_package_runs_for_a_name(target, evil):
    with pytest.raises(ValueError, match="asks for"):
        export.build_pruner({"_target_": target})
    with pytest.raises(ValueError, match="asks for"):
        export.build_pruner({"_target_": target}, allow=("tests", "learn", "learnpruner"))
    with pytest.raises(ValueError, match="asks for"):
        kv.eviction.build_policy({"_target_": f"{target}Policy"})
    assert not evil.exists()


def test_a_package_that_is_allowed_is_built(evil):
    assert type(export.build_pruner({"_target_": "evil.Evil"}, allow=("evil",))).__name__ == "Evil" and evil.exists()
    assert type(kv.eviction.build_policy({"_target_": "evil.EvilPolicy"}, allow=("evil",))).__name__ == "EvilPolicy"


@pytest.mark.parametrize("hidden", [lambda it: it, lambda it: [1, it], lambda it: {"deep": {"er": it}}])
def test_an_argument_that_is_an_object_is_refused(hidden, evil):
    """Neither built nor handed on."""
    for target in ("learnpruner.pruners.learnpruner.LearnedPruner", "evil.Evil"):
        with pytest.raises(ValueError, match="an object to build"):
            export.build_pruner(
                {"_target_": target, "width": hidden({"_target_": "os.system", "command": "x"})}, ("evil",)
            )


@pytest.mark.parametrize(
    "target",
    [
        "learnpruner.kv_eviction.lit_module.KVGateLitModule",
        "learnpruner.kv_eviction.policy.EvictionPolicy",
        "os.system",
    ],
)
def test_only_policies_are_built_for_an_eviction(target):
    with pytest.raises(ValueError, match="is not an EvictionPolicy"):
        kv.eviction.build_policy({"_target_": target})


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """A hub of folders that gives what is asked for and no more."""

    def snapshot(repository, revision, allow_patterns):
        assert revision is None
        target = tmp_path / "cache" / repository
        for path in sorted((tmp_path / "hub" / repository).rglob("*")):
            name = str(path.relative_to(tmp_path / "hub" / repository))
            if path.is_file() and any(fnmatch.fnmatch(name, pattern) for pattern in allow_patterns):
                (target / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(path, target / name)
        return str(target)

    monkeypatch.setattr(export, "snapshot_download", snapshot)
    monkeypatch.chdir(tmp_path)
    return tmp_path / "hub"


@pytest.mark.parametrize("kind", [None, LoraAdapter, ProjectorAdapter])
def test_a_plan_of_the_hub_is_the_plan_that_was_uploaded(hub, kind):
    model = tiny_llava()
    plan = Plan([Stage(LearnedPruner(), "encoder")], 0.25, adaptation=kind and kind()).prepare(family_of(model))
    for weight in plan.parameters():
        weight.data.normal_()
    plan.save(hub / "me/plan", "some/llava")
    (hub / "me/plan/evil.py").write_text("raise SystemExit")
    found = learnpruner.load("me/plan")
    assert found.state_dict().keys() == plan.state_dict().keys()
    assert all(torch.equal(value, found.state_dict()[name]) for name, value in plan.state_dict().items())
    assert not (hub.parent / "cache/me/plan/evil.py").exists()
    with found.on(model):
        pass


def test_an_eviction_of_the_hub_is_the_one_that_was_uploaded(hub):
    eviction = kv.Eviction(TrimKV(8), 16, 4).prepare(family_of(tiny_llava()))
    eviction.save(hub / "me/gates", "some/llava")
    found = kv.load_eviction("me/gates")
    assert all(torch.equal(value, found.state_dict()[name]) for name, value in eviction.state_dict().items())


def test_packages_are_those_beside_this_one():
    class Mine(RandomPruner): ...

    Mine.__module__ = "mine.deep"
    assert export.outside_packages([RandomPruner(), Mine()]) == ("mine",) and export.outside_packages([]) == ()


def test_weights_that_are_views_are_written_whole(tmp_path):
    weight = torch.randn(4, 6).T[::2]
    export.write_export(tmp_path, {"metrics": {}}, {"weight": weight}, "")
    assert torch.equal(export.read_weights(tmp_path / export.WEIGHTS_FILE)["weight"], weight)
