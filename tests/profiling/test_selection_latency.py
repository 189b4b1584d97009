"""What choosing costs: every method of the folder is timed on its own input, and nothing stays patched. No figure is asserted."""

import json
from contextlib import nullcontext
from pathlib import Path

import pytest
import torch

from learnpruner.engine.signal_clock import watch_signals
from learnpruner.plan.build import build_plan
from learnpruner.plan.pruner_configs import load_pruner_config
from learnpruner.profiling import selection_latency as selection_cost

FOLDER = Path(__file__).parents[2] / "conf" / "pruner"


@pytest.fixture(scope="module")
def small():
    torch.set_num_threads(1)
    return selection_cost.make_random_llava(width=64, side=6, layers=8, tower_layers=3)


def test_the_model_has_the_size_that_is_claimed():
    with torch.device("meta"):
        family = selection_cost.make_random_llava(layers=1, tower_layers=2).family
    assert (family.tokens, family.feature_width, family.text_width) == (576, 1024, 1024)


def test_every_stage_is_timed_on_what_it_saw(small, monkeypatch):
    plan, seen = build_plan(load_pruner_config(FOLDER / "fastervlm_text.yaml", 0.25), small), []
    monkeypatch.setattr(selection_cost, "time_call", lambda run, clock: seen.append(run()) or 1.0)
    found = selection_cost.selection_cost(small, plan, selection_cost.make_prompt(small), repeats=2)
    assert found["choosing"] == 2.0  # two stages
    assert [one.index.shape[1] for one in seen] == [*plan.counts(36, 8)] * 3
    assert found["signals"] > 0


def test_timing_leaves_no_trace(small):
    plan, clocked = build_plan(load_pruner_config(FOLDER / "fastervlm.yaml", 0.25), small), []
    selection_cost.selection_cost(small, plan, selection_cost.make_prompt(small), repeats=1)
    assert not plan.stages[0].pruner._forward_pre_hooks
    with pytest.raises(ZeroDivisionError), watch_signals(lambda: clocked.append(1) or nullcontext()):
        raise ZeroDivisionError
    with plan.on(small.model):
        small.model(**selection_cost.make_prompt(small))
    assert not clocked


@pytest.mark.parametrize("config", ["fastervlm", "fastervlm_text", "sppruner", "pyramiddrop"])
def test_all_that_computes_signals_is_clocked(small, config):
    """A layer of the tower and of the LLM, the question, and the entry of a stage."""
    plan, clocked = build_at_smallest(config, small), []
    with watch_signals(lambda: clocked.append(1) or nullcontext()), plan.on(small.model):
        small.model(**selection_cost.make_prompt(small))
    assert clocked


def build_at_smallest(config, small):
    return selection_cost.build_at_smallest_feasible_budget(FOLDER / f"{config}.yaml", small, 0.5)


def test_a_plan_that_cannot_have_the_budget_is_timed_at_its_smallest(small, tmp_path):
    (tmp_path / "late.yaml").write_text(
        "_target_: learnpruner.plan.Plan\nprune_ratio: ${prune_ratio}\nstages:\n"
        "  - {pruner: {_target_: learnpruner.pruners.text_attention.TextAttention}, at: 12/32}\n"
    )
    assert selection_cost.build_at_smallest_feasible_budget(tmp_path / "late.yaml", small).prune_ratio == pytest.approx(
        14 / 36, abs=1e-3
    )


def test_the_script_writes_hardware_commit_and_command(small, tmp_path, monkeypatch):
    monkeypatch.setattr(selection_cost, "make_random_llava", lambda: small)
    selection_cost.main(
        ["uniform", "--folder", str(FOLDER), "--out", str(tmp_path / "x.json"), "--repeats", "1", "--clock", "cpu"]
    )
    found = json.loads((tmp_path / "x.json").read_text())
    assert {"unit", "clock", "command", "hardware", "commit", "versions", "methods"} == set(found)
    assert found["hardware"]["threads"] == 1
    assert set(found["methods"]["uniform"]) == {"total", "choosing", "signals", "averaged_tokens"}
    with pytest.raises(SystemExit):
        selection_cost.main(["nobody", "--folder", str(FOLDER)])
