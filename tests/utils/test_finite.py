"""No file with a value that is not finite is written or read, whatever learned it."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny import tiny_llava

import learnpruner
from learnpruner import Plan, Stage
from learnpruner import kv_eviction as kv
from learnpruner.adapters import ADAPTER_KINDS
from learnpruner.backbones import family_of
from learnpruner.kv_eviction.eviction import Eviction
from learnpruner.kv_eviction.policies.trimkv import MakeEachTokenCount, TrimKV
from learnpruner.plan.export import build_pruner
from learnpruner.training.checkpointing import CheckpointFiles
from learnpruner.utils.finite import check_finite

METHODS = ["learnpruner.LearnedPruner", "visionselector.VisionSelector", "diffprune.DiffPrune", "evocomp.EvoComp"]


def learned(name):
    """A plan that learns, on the tiny model."""
    if name in ADAPTER_KINDS:
        plan = Plan(
            [Stage(build_pruner({"_target_": "learnpruner.pruners.uniform.UniformPruner"}), "encoder")],
            0.5,
            adaptation=ADAPTER_KINDS[name](),
        )
    else:
        pruner = build_pruner({"_target_": f"learnpruner.pruners.{name}"})
        plan = Plan([Stage(pruner, 0 if "learnpruner." not in name else "encoder")], 0.5)
    return plan.prepare(family_of(tiny_llava()))


def spoiled(file, value):
    """The file with one value of its last tensor changed."""
    weights = load_file(file)
    weights[max(weights)].view(-1)[-1] = value
    save_file(weights, file)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("name", [*METHODS, *ADAPTER_KINDS])
def test_a_plan_is_neither_exported_nor_loaded(name, value, tmp_path):
    plan = learned(name)
    good = plan.save(tmp_path / "good")
    learnpruner.load(good)
    *_, file = sorted(path for path in good.rglob("*.safetensors") if load_file(path))
    spoiled(file, value)
    with pytest.raises(ValueError, match="not finite"):
        learnpruner.load(good)
    with torch.no_grad():
        list(plan.parameters())[-1].view(-1)[-1] = value
    with pytest.raises(ValueError, match=r"is not exported.*not finite"):
        plan.save(tmp_path / "bad")
    assert not (tmp_path / "bad").exists()


@pytest.mark.parametrize("policy", [TrimKV, MakeEachTokenCount])
def test_gates_of_eviction_are_neither_exported_nor_loaded(policy, tmp_path):
    eviction = Eviction(policy(16), 10, 4).prepare(family_of(tiny_llava()))
    good = eviction.save(tmp_path / "good")
    kv.load_eviction(good)
    spoiled(good / "model.safetensors", float("nan"))
    with pytest.raises(ValueError, match=r"is refused.*not finite"):
        kv.load_eviction(good)
    with torch.no_grad():
        list(eviction.parameters())[-1].fill_(float("inf"))
    with pytest.raises(ValueError, match=r"is not written.*not finite"):
        eviction.save(tmp_path / "bad")
    assert not (tmp_path / "bad").exists()


@pytest.mark.parametrize("where", ["weights", "moments"])
def test_a_checkpoint_is_not_written_and_the_one_before_stays(where, tmp_path):
    path = tmp_path / "last.ckpt"
    good, bad = torch.zeros(3), torch.tensor([0.0, float("nan"), 0.0])

    def checkpoint(weights, moments):
        return {"state_dict": {"w": weights}, "optimizer_states": [{"state": {0: {"exp_avg": moments, "step": 1}}}]}

    CheckpointFiles().save_checkpoint(checkpoint(good, good), path)
    before = path.read_bytes()
    with pytest.raises(ValueError, match=r"is not written.*not finite"):
        CheckpointFiles().save_checkpoint(checkpoint(*((bad, good) if where == "weights" else (good, bad))), path)
    assert path.read_bytes() == before and list(tmp_path.iterdir()) == [path]


def test_metrics_that_are_not_finite_are_null(tmp_path):
    plan = learned(METHODS[0])
    config = (plan.save(tmp_path, metrics={"loss": float("nan"), "steps": 3}) / "config.json").read_text()
    assert json.loads(config, parse_constant=lambda name: pytest.fail(name))["metrics"] == {"loss": None, "steps": 3}


def test_whole_numbers_and_masks_are_no_weights():
    check_finite({"steps": torch.tensor(3), "mask": torch.tensor([True]), "name": "x"}, "x")


def test_what_ships_is_finite():
    for file in (Path(__file__).parents[2] / "checkpoints").rglob("*.safetensors"):
        check_finite(load_file(file), str(file))
