"""Folders that others made: a plan of the right type, or one sentence that names the file and what is wrong."""

import copy
import io
import json
import os
import pickle
import shutil
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save

import learnpruner
from learnpruner import kv_eviction as kv
from learnpruner.adapters import LoraAdapter
from learnpruner.plan import Plan
from learnpruner.utils.errors import UserError

SHIPPED = Path(__file__).parents[2] / "checkpoints"
PLAN, EVICTION = SHIPPED / "nano-r0.055", SHIPPED / "nano-kv" / "trimkv"


@pytest.fixture
def folder(tmp_path):
    """A function that writes a plan's folder: its config changed, or other bytes in a file's place."""

    def make(change=None, config=None, weights=None, of=PLAN):
        target = tmp_path / "plan"
        shutil.rmtree(target, ignore_errors=True)
        shutil.copytree(of, target)
        if change is not None:
            values = json.loads((of / "config.json").read_text())
            change(values)
            config = json.dumps(values).encode()
        for name, content in (("config.json", config), ("model.safetensors", weights)):
            if content is not None:
                (target / name).write_bytes(content)
        return target

    return make


def without(*path):
    def change(values):
        for key in path[:-1]:
            values = values[key]
        del values[path[-1]]

    return change


def put(value, *path):
    def change(values):
        for key in path[:-1]:
            values = values[key]
        values[path[-1]] = value

    return change


WRONG = {
    "no place": (without("stages", 0, "at"), "stages.0.at: Field required"),
    "no pruner": (without("stages", 0, "pruner"), "stages.0.pruner: Field required"),
    "no class": (without("stages", 0, "pruner", "_target_"), "stages.0.pruner._target_: Field required"),
    "no budget": (without("prune_ratio"), "prune_ratio: Field required"),
    "no stages": (without("stages"), "stages: Field required"),
    "a budget above 1": (put(7, "prune_ratio"), "prune_ratio: Input should be less than or equal to 1"),
    "a budget in words": (put("0.1", "prune_ratio"), "prune_ratio: Input should be a valid number"),
    "a budget that is true": (put(True, "prune_ratio"), "prune_ratio: Input should be a valid number"),
    "no number": (put(float("nan"), "prune_ratio"), "prune_ratio: "),
    "stages as a mapping": (put({}, "stages"), "stages: Input should be a valid list"),
    "a stage in words": (put("cls", "stages", 0), "stages.0: "),
    "a place that is none": (put("banana", "stages", 0, "at"), "stages.0.at: a stage acts at 'encoder', 0"),
    "a place below 0": (put(-1, "stages", 0, "at"), "stages.0.at: a stage acts at 'encoder', 0"),
    "a fraction of nothing": (put("12/0", "stages", 0, "at"), "stages.0.at: a stage acts at 'encoder', 0"),
    "a share in a list": (put([1], "stages", 0, "share"), "stages.0.share"),
    "a share of nothing": (put(0, "stages", 0, "share"), "stages.0.share"),
    "a way of padding": (put("banana", "image_aspect"), "image_aspect: Input should be 'processor' or 'pad'"),
    "positions": (put("banana", "positions"), "positions: Input should be 'original' or 'compact'"),
    "a later format": (put(2, "format"), "format: Input should be 1"),
    "a field of no version": (put(1, "postions"), "postions: this version knows no such field"),
    "a field of a stage": (put(1, "stages", 0, "pruners"), "stages.0.pruners: this version knows no such field"),
    "a class that is a number": (put(3, "stages", 0, "pruner", "_target_"), "_target_: Input should be a valid string"),
    "an argument of another type": (put("x", "stages", 0, "pruner", "width"), "width is 'x'"),
    "an argument below 0": (put(-3, "stages", 0, "pruner", "width"), "arguments do not fit"),
    "an argument of no method": (put(1, "stages", 0, "pruner", "wdith"), "arguments do not fit"),
    "widths that no machine holds": (put(10**15, "stages", 0, "pruner", "width"), "arguments do not fit"),
    "a backbone in words": (put("x", "backbone"), "backbone: "),
    "an adapter in words": (put("x", "adapter"), "adapter: "),
    "an adapter of no kind": (put({"kind": "x"}, "adapter"), "adapter is of kind 'x'"),
    "an adapter's rank": (put({"kind": "lora", "r": "8"}, "adapter"), "r is '8'"),
    "an adapter without a file": (put({"kind": "projector"}, "adapter"), "adapter"),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_config_that_is_wrong_is_one_sentence(case, folder):
    change, message = WRONG[case]
    made = folder(change)
    with pytest.raises(UserError) as raised:
        learnpruner.load(made)
    assert message in str(raised.value) and "\n" not in str(raised.value)


BYTES = {
    "not UTF-8": (b"\xff\xfe{}", "utf-8"),
    "nested without end": (b"[" * 10_000, "nested too deeply"),
    "nested too deeply": (b'{"stages": ' + b"[" * 100 + b"]" * 100 + b"}", "nested too deeply"),
    "a list": (b"[]", "not the config of an exported plan"),
    "null": (b"null", "not the config of an exported plan"),
    "nothing": (b"", "cannot be read"),
}


@pytest.mark.parametrize("case", BYTES)
@pytest.mark.parametrize("load", [learnpruner.load, kv.load_eviction])
def test_bytes_that_are_no_config_are_one_sentence(case, load, folder):
    content, message = BYTES[case]
    made = folder(config=content)
    with pytest.raises(UserError) as raised:
        load(made)
    assert message.replace("plan", "eviction" if load is kv.load_eviction else "plan") in str(raised.value)


def test_a_mark_of_the_byte_order_and_a_missing_setting_with_a_default_are_read(folder):
    made = folder(config=b"\xef\xbb\xbf" + (PLAN / "config.json").read_bytes())
    assert learnpruner.load(made).prune_ratio == learnpruner.load(PLAN).prune_ratio
    assert learnpruner.load(folder(without("positions"))).positions == "original"


@pytest.mark.parametrize("path", sorted(SHIPPED.glob("nano-*-r*")) + [PLAN], ids=lambda path: path.name)
def test_every_shipped_plan_passes(path):
    config = json.loads((path / "config.json").read_text())
    plan = learnpruner.load(path)
    assert [stage.at for stage in plan.stages] == [stage["at"] for stage in config["stages"]]
    assert (plan.prune_ratio, plan.positions) == (config["prune_ratio"], config["positions"])


def test_a_plan_with_an_adapter_and_shares_of_several_budgets_is_read_as_it_was_written(tmp_path):
    plan = learnpruner.load(PLAN)
    plan.stages[0].token_share = {0.333: 300.0, 0.111: 66.0}
    plan.adaptation = LoraAdapter(r=2, alpha=3)
    plan.adaptation.take({"model.layers.0.q_proj.lora_A": torch.ones(2, 4)})
    again = learnpruner.load(plan.save(tmp_path / "plan"))
    assert again.stages[0].token_share == plan.stages[0].token_share
    assert (again.adaptation.r, again.adaptation.alpha, again.adaptation.target_modules) == (2, 3, ".*_proj")


def checkpoint():
    buffer = io.BytesIO()
    torch.save({"x": torch.ones(2)}, buffer)
    return buffer.getvalue()


OWN = (PLAN / "model.safetensors").read_bytes()
WEIGHTS = {
    "cut short": lambda: OWN[: len(OWN) // 2],
    "nothing": lambda: b"",
    "a pickle": lambda: pickle.dumps({"x": 1}),
    "a checkpoint": checkpoint,
    "a header without end": lambda: (2**62).to_bytes(8, "little") + OWN[8:],
    "other names": lambda: save({"x": torch.ones(2)}),
    "whole numbers": lambda: save({k: v.long() for k, v in load_file(PLAN / "model.safetensors").items()}),
    "other shapes": lambda: save({k: v[:1] for k, v in load_file(PLAN / "model.safetensors").items()}),
}


@pytest.mark.parametrize("case", WEIGHTS)
def test_weights_that_are_none_are_one_sentence(case, folder):
    made = folder(weights=WEIGHTS[case]())
    with pytest.raises(UserError, match=r"model\.safetensors|weights in") as raised:
        learnpruner.load(made)
    assert "\n" not in str(raised.value)


def test_a_named_pipe_is_no_file_of_weights(folder):
    made = folder()
    (made / "model.safetensors").unlink()
    os.mkfifo(made / "model.safetensors")
    with pytest.raises(UserError, match="it is no file"):
        learnpruner.load(made)


def test_a_file_is_no_plan(tmp_path):
    (tmp_path / "x").write_text("x")
    with pytest.raises(UserError, match="x is a file; a plan is the folder"):
        learnpruner.load(tmp_path / "x")


EVICTIONS = {
    "no policy": (without("policy"), "policy: Field required"),
    "slots": (put(0, "budget"), "budget: Input should be greater than 0"),
    "half a slot": (put(1.5, "budget"), "budget: Input should be a valid integer"),
    "no pace": (without("every"), "every: Field required"),
    "an argument": (put("x", "policy", "width"), "width is 'x'"),
    "sizes": (put("x", "backbone", "width"), "backbone.width: Input should be a valid integer"),
}


@pytest.mark.parametrize("case", EVICTIONS)
def test_an_eviction_that_is_wrong_is_one_sentence(case, folder):
    change, message = EVICTIONS[case]
    with pytest.raises(UserError) as raised:
        kv.load_eviction(folder(change, of=EVICTION))
    assert message in str(raised.value) and "\n" not in str(raised.value)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats() | st.text(max_size=8),
    lambda inside: st.lists(inside, max_size=3) | st.dictionaries(st.text(max_size=8), inside, max_size=3),
    max_leaves=6,
)
CONFIG = json.loads((PLAN / "config.json").read_text())
PATHS = [
    (), ("prune_ratio",), ("positions",), ("image_aspect",), ("format",), ("stages",), ("stages", 0), ("stages", 0, "at"),
    ("stages", 0, "share"), ("stages", 0, "pruner"), ("stages", 0, "pruner", "_target_"), ("stages", 0, "pruner", "diversity"),
    ("stages", 0, "pruner", "width"), ("stages", 0, "pruner", "more"), ("backbone",), ("backbone", "tokens"), ("versions",),
    ("metrics",), ("budgets",), ("adapter",), ("more",),
]  # fmt: skip
FEW = settings(
    derandomize=True, deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


def plan_or_sentence(made):
    try:
        plan = learnpruner.load(made)
    except UserError as error:
        assert str(error).strip()
    else:
        assert isinstance(plan, Plan) and 0 < plan.prune_ratio <= 1


@FEW
@given(path=st.sampled_from(PATHS), value=JSON)
def test_any_value_in_any_field_is_a_plan_or_a_sentence(folder, path, value):
    values = copy.deepcopy(CONFIG)
    if path:
        put(value, *path)(values)
    plan_or_sentence(folder(config=json.dumps(values if path else value).encode()))


@FEW
@given(at=st.integers(0, len(OWN) - 1), junk=st.binary(max_size=12), config=st.booleans())
def test_any_bytes_in_any_place_are_a_plan_or_a_sentence(folder, at, junk, config):
    whole = json.dumps(CONFIG).encode() if config else OWN
    at = at % 1500 if not config else at % len(whole)  # the header is what is parsed
    changed = whole[:at] + junk + whole[at + len(junk) :]
    plan_or_sentence(folder(**{"config" if config else "weights": changed}))
