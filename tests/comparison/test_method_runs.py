"""Who takes part: feasible plans run at the budget that was asked for, all others say why they do not."""

import json
from pathlib import Path

import pytest
import torch
from families import FAMILIES

from learnpruner.backbones import Backbone, load_backbone
from learnpruner.benchmarks.scenes import ScenesBenchmark
from learnpruner.comparison.method_runs import INFEASIBLE, OK, REFUSED, UNTRAINED, MethodGrid, check_average, labels
from learnpruner.comparison.task import ComparisonTask
from learnpruner.evaluation.task import TaskContext
from learnpruner.plan.build import build_plan
from learnpruner.plan.pruner_configs import PrunerConfigs, load_pruner_config
from learnpruner.pruners.learnpruner import LearnedPruner
from tests.tiny_folder import tiny_folder

ROOT = Path(__file__).parents[2]
HEAD = "_target_: learnpruner.plan.Plan\nprune_ratio: ${prune_ratio}\nstages:\n"
STAGE = "  - {{pruner: {{_target_: learnpruner.pruners.{0}}}, at: {1}}}\n"
CONFIGS = {
    "even": STAGE.format("uniform.UniformPruner", "encoder"),
    "late": STAGE.format("text_attention.TextAttention", "12/32"),
    "learned": STAGE.format("learnpruner.LearnedPruner", "encoder"),
    "blind": STAGE.format("fastervlm.FasterVLM", 2),  # [CLS] attention is a signal of the tower, not of the LLM
    "unfit": STAGE.format("random.RandomPruner", 99),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    made = tmp_path_factory.mktemp("pruner")
    for name, stages in CONFIGS.items():
        (made / f"{name}.yaml").write_text(HEAD + stages)
    return made


def test_the_folder_is_the_registry(folder):
    assert MethodGrid(PrunerConfigs((folder,))).names() == ["blind", "even", "late", "learned", "unfit"]
    assert MethodGrid(PrunerConfigs((folder,)), exports={"late": "x", "own": "y"}).names() == [
        "blind",
        "even",
        "late",
        "learned",
        "unfit",
        "own",
    ]
    assert MethodGrid(PrunerConfigs((folder,)), ["late", "even", "late"]).names() == ["late", "even"]
    with pytest.raises(ValueError, match="fasterVLM"):
        MethodGrid(PrunerConfigs((folder,)), ["fasterVLM"]).names()


def test_each_method_at_each_budget_runs_or_says_why(folder, backbone):
    found = {one.row: one for one in MethodGrid(PrunerConfigs((folder,))).entrants([0.5, 0.1], backbone)}
    assert {row: one.status for row, one in found.items()} == {
        "even@0.5": OK, "even@0.1": OK, "late@0.5": OK, "late@0.1": INFEASIBLE, "learned@0.5": UNTRAINED,
        "learned@0.1": UNTRAINED, "unfit@0.5": REFUSED, "unfit@0.1": REFUSED,
        "blind@0.5": REFUSED, "blind@0.1": INFEASIBLE,
    }  # fmt: skip
    assert all((one.plan is not None) == (one.status == OK) for one in found.values())
    assert "layers 0 to 7" in found["unfit@0.5"].why
    assert "cls_attention" in found["blind@0.5"].why
    for one in found.values():
        check_average(one, backbone.family.tokens, backbone.family.layers)


def test_the_smallest_feasible_budget_is_feasible(folder, backbone):
    one = MethodGrid(PrunerConfigs((folder,))).entrant("late", 0.1, backbone)
    assert MethodGrid(PrunerConfigs((folder,))).entrant("late", one.smallest, backbone).status == OK
    assert MethodGrid(PrunerConfigs((folder,))).entrant("late", one.smallest - 1 / 64, backbone).status == INFEASIBLE


def test_a_trained_export_is_given_the_budget(folder, backbone, tmp_path):
    plan = build_plan(load_pruner_config(folder / "learned.yaml", 0.2), backbone, seed=5)
    plan.save(tmp_path / "nano-learned-r0.2")
    field = MethodGrid(PrunerConfigs((folder,)), ["learned"], export_pattern=str(tmp_path / "nano-{method}-r0.2"))
    one = field.entrant("learned", 0.5, backbone)
    assert (one.status, one.source) == (OK, str(tmp_path / "nano-learned-r0.2"))
    assert one.plan.counts(64, 8) == (32,)
    assert isinstance(one.plan.stages[0].pruner, LearnedPruner)
    for name, value in plan.state_dict().items():
        assert torch.equal(one.plan.state_dict()[name], value)


def test_an_export_of_another_width_is_refused(folder, backbone, tmp_path_factory):
    wide = load_backbone(tiny_folder(tmp_path_factory.mktemp("wide"), width=48))
    path = build_plan(load_pruner_config(folder / "learned.yaml", 0.2), wide).save(
        tmp_path_factory.mktemp("export") / "wide"
    )
    one = MethodGrid(PrunerConfigs((folder,)), ["learned"], {"learned": str(path)}).entrant("learned", 0.5, backbone)
    assert one.status == REFUSED
    assert "48" in one.why


def test_a_pruner_that_refuses_its_settings_says_so_itself(backbone, tmp_path):
    (tmp_path / "wrong.yaml").write_text(
        HEAD + "  - {pruner: {_target_: learnpruner.pruners.st_prune.STPrune, views: 0}, at: 0}\n"
    )
    one = MethodGrid(PrunerConfigs((tmp_path,))).entrant("wrong", 0.5, backbone)
    assert one.status == REFUSED
    assert one.why.startswith("views=0")


def test_a_config_can_refer_to_the_backbone(backbone, tmp_path):
    (tmp_path / "own.yaml").write_text(
        HEAD + "  - {pruner: {_target_: x, weights: '${backbone.path}/own.json'}, at: 0}\n"
    )
    made = load_pruner_config(tmp_path / "own.yaml", 0.5, backbone.name)
    assert made["stages"][0]["pruner"]["weights"] == f"{backbone.name}/own.json"


def test_positions_can_be_the_same_for_all(folder, backbone, tmp_path):
    path = build_plan(load_pruner_config(folder / "learned.yaml", 0.2), backbone).save(tmp_path / "own")
    field = MethodGrid(PrunerConfigs((folder,)), ["even", "learned"], {"learned": str(path)}, positions="compact")
    assert [one.plan.positions for one in field.entrants([0.5], backbone)] == ["compact", "compact"]
    assert MethodGrid(PrunerConfigs((folder,)), ["even"]).entrant("even", 0.5, backbone).plan.positions == "original"


def test_a_plan_at_another_budget_is_found_out(folder, backbone):
    one = MethodGrid(PrunerConfigs((folder,))).entrant("even", 0.5, backbone)
    one.plan.prune_ratio = 0.6
    with pytest.raises(RuntimeError, match=r"even at prune_ratio=0\.5 .* 38\.00 .* 32"):
        check_average(one, 64, 8)


def test_a_reconstruction_is_known_by_its_pruner(folder, backbone):
    one = MethodGrid(PrunerConfigs((folder,))).entrant("even", 0.5, backbone)
    assert not one.reconstruction
    one.plan.stages[0].pruner.reconstruction = True
    assert labels(one.plan)["reconstruction"]


def test_what_a_pruner_does_for_want_of_something_is_known(folder, backbone):
    one = MethodGrid(PrunerConfigs((folder,))).entrant("even", 0.5, backbone)
    assert one.fallback == ""
    one.plan.stages[0].pruner.fallback = "no text tower, relevance is 1"
    assert labels(one.plan)["fallback"] == "no text tower, relevance is 1"


@pytest.mark.parametrize("name", ["aot", "cdpruner", "hiprune", "hiprune_pp", "st_prune"])
def test_methods_that_run_otherwise_than_their_authors_here_say_so(name, backbone):
    assert MethodGrid().entrant(name, 0.5, backbone).fallback


def test_no_export_lies_where_there_is_no_folder(folder, tmp_path):
    field = MethodGrid(PrunerConfigs((folder,)), exports={"learned": "x/y"}, export_pattern=str(tmp_path / "{method}"))
    assert field.export("learned") == Path("x/y")
    assert field.export("even") is None


@pytest.mark.parametrize("family", ["llava_next", "llava_onevision"])
def test_a_method_that_refuses_how_a_backbone_lays_out_pictures_is_a_row_that_says_so(family, tmp_path):
    backbone = Backbone(*reversed(FAMILIES[family].make()), family)
    task = ComparisonTask(ScenesBenchmark(split="test"), limit=3, batch_size=2, max_new_tokens=2, methods=["hiprune", "pooling", "random"],
                 selection_repeats=0)  # fmt: skip
    path, text = task.run(TaskContext(backbone, tmp_path, budgets=[0.5], pruners=PrunerConfigs()))
    rows = {row["method"]: row for row in json.loads(path.read_text())["rows"]}
    assert {name: row["status"] for name, row in rows.items()} == {"hiprune": REFUSED, "pooling": REFUSED, "random": OK}
    assert "on one grid" in rows["hiprune"]["why"] and text.count("not on this backbone") == 2
    assert rows["random"]["accuracy"] is not None
