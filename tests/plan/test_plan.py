"""Plans: what they say, what they save, and what they refuse to load."""

import json

import pytest
import torch
from safetensors.torch import load_file
from tiny import TOKENS, ids, inputs, tiny_llava

import learnpruner
from learnpruner import Plan, ScorePruner, Stage
from learnpruner.plan.export import build_pruner
from learnpruner.pruners.learnpruner import LearnedPruner
from learnpruner.pruners.random import RandomPruner
from learnpruner.pruners.text_attention import TextAttention

MODEL = tiny_llava()


class Foreign(ScorePruner):
    """A user's own pruner, in a module that is not this package."""

    def __init__(self, power: float = 1.0) -> None:
        super().__init__()
        self.power = power

    def score(self, view):
        return view.tokens.norm(dim=-1) ** self.power


def two(width=None, ratio=0.25):
    return Plan(
        [Stage(LearnedPruner(width, diversity=0.2), "encoder", 3), Stage(TextAttention(), "12/32")], ratio
    ).eval()


@pytest.fixture
def folder(tmp_path):
    plan = two()
    with plan.on(MODEL):
        pass
    metrics = {"retention": 0.97}
    return plan.save(
        tmp_path / "plan", backbone="some/llava", revision="abc", metrics=metrics, notes="Trained in a test."
    )


def refused(match, run, *args, **kwargs):
    with pytest.raises(ValueError, match=match) as caught:
        run(*args, **kwargs)
    assert "\n" not in str(caught.value)


def test_it_says_what_it_keeps():
    line = "keeping 31.9 of 576 visual tokens on average: 55 after the encoder, 18 from layer 12"
    assert two(ratio=0.055).describe(576, 32) == line
    assert two(ratio=0.055).describe(576, 8) == line.replace("layer 12", "layer 3")
    assert Plan().describe(576, 32) == "keeping all 576 visual tokens"


def test_tokens_entering_averaged_and_final():
    assert two(ratio=0.055).tokens(576, 32) == {"entering": 55, "averaged": 31.875, "final": 18}
    assert Plan([Stage(TextAttention(), 2)], 0.5).tokens(576, 32) == {
        "entering": 576,
        "averaged": 288.1875,
        "final": 269,
    }
    assert Plan().tokens(576, 32) == {"entering": 576, "averaged": 576, "final": 576}
    before = Plan(
        [Stage(RandomPruner(), "encoder", 3), Stage(RandomPruner(), 0, 2), Stage(TextAttention(), 4, 1)], 0.25
    )
    assert before.tokens(576, 8)["entering"] == before.counts(576, 8)[1] < before.counts(576, 8)[0]


@pytest.mark.parametrize(
    ("at", "cut"), [("encoder", 0), (0, 0), (5, 5), ("5", 5), ("12/32", 3), ("1/32", 1), ("1/2", 4)]
)
def test_places_scale_with_depth(at, cut):
    assert Stage(TextAttention(), at).cut(8) == cut


@pytest.mark.parametrize("at", ["decoder", "1/0", "a/b", None, 0.5])
def test_a_place_that_can_not_be_read_is_refused(at):
    refused("a stage acts at 'encoder'", Stage, TextAttention(), at)


def test_stages_may_be_mappings():
    plan = Plan([{"pruner": RandomPruner(), "at": "encoder", "token_share": 3}], 0.5)
    assert plan.counts(TOKENS, 6) == (18,)


@pytest.mark.parametrize("ratio", [0, 1.5, float("nan"), "half"])
def test_a_bad_ratio_is_refused(ratio):
    refused("prune_ratio=", Plan, [], ratio)


def test_unknown_positions_are_refused():
    refused("choose 'original' or 'compact'", Plan, [], 1.0, "shifted")


def test_a_saved_plan_prunes_as_it_did(folder):
    batch, loaded = inputs([ids(1), ids(1, seed=4)]), learnpruner.load(folder)
    torch.manual_seed(9)
    with torch.no_grad(), loaded.on(MODEL) as engine:
        found = MODEL(**batch).logits
        kept = engine.record.kept
    weights = load_file(folder / "model.safetensors")
    original = two(32)
    original.load_state_dict(weights)
    with torch.no_grad(), original.on(MODEL) as engine:
        assert torch.equal(found, MODEL(**batch).logits)
    assert all(torch.equal(a, b) for a, b in zip(kept, engine.record.kept, strict=True))
    assert not loaded.training


def test_the_folder_holds_what_was_promised(folder):
    config = json.loads((folder / "config.json").read_text())
    assert config["prune_ratio"] == 0.25
    assert config["stages"][0] == {
        "pruner": {
            "_target_": "learnpruner.pruners.learnpruner.LearnedPruner",
            "width": 32,
            "diversity": 0.2,
            "diversity_in_training": False,
        },
        "at": "encoder",
        "share": 3.0,
    }
    assert config["budgets"]["counts"] == [16, 5]
    assert config["backbone"] == {
        "name": "some/llava",
        "revision": "abc",
        "tokens": 36,
        "layers": 6,
        "feature_width": 32,
    }
    assert config["metrics"] == {"retention": 0.97}
    assert {"torch", "transformers", "learnpruner"} <= set(config["versions"])
    weights = load_file(folder / "model.safetensors")
    assert set(weights) == set(two(32).state_dict())
    card = (folder / "README.md").read_text()
    assert "keeping 8.7 of 36" in card
    assert "some/llava" in card
    assert "retention | 0.97" in card
    assert "Trained in a test." in card


def test_a_plan_can_be_loaded_at_another_budget(folder):
    assert learnpruner.load(folder, prune_ratio=0.5).counts(TOKENS, 6) == two(ratio=0.5).counts(TOKENS, 6)
    refused("prune_ratio=2", learnpruner.load, folder, prune_ratio=2)


def test_saving_and_loading_a_plan_without_weights(tmp_path):
    Plan([Stage(RandomPruner(7), 0)], 0.5, "compact").save(tmp_path / "p")
    loaded = learnpruner.load(tmp_path / "p")
    assert loaded.positions == "compact"
    assert loaded.stages[0].pruner.seed == 7


@pytest.mark.parametrize("source", ["checkpoints/none", "no plan here", "/nowhere/plan"])
def test_a_missing_folder_is_refused(source, tmp_path, monkeypatch):
    (tmp_path / "checkpoints").mkdir()
    monkeypatch.chdir(tmp_path)
    refused("No plan at", learnpruner.load, source)


def test_a_hub_id_that_can_not_be_reached_is_refused():
    refused("neither a plan's folder nor a reachable Hub id", learnpruner.load, "nobody-here/no-plan")


@pytest.mark.parametrize("kept", [0, 5, 100, 0.5])
def test_truncated_weights_are_refused(folder, kept):
    path = folder / "model.safetensors"
    data = path.read_bytes()
    path.write_bytes(data[: int(kept * len(data)) if isinstance(kept, float) else kept])
    refused("missing or damaged", learnpruner.load, folder)


def test_missing_weights_are_refused(folder):
    (folder / "model.safetensors").unlink()
    refused("missing or damaged", learnpruner.load, folder)


def test_a_damaged_config_is_refused(folder):
    (folder / "config.json").write_text("{")
    refused("cannot be read as the config of an exported plan", learnpruner.load, folder)
    (folder / "config.json").write_text('{"model_type": "llava"}')
    refused("not the config of an exported plan", learnpruner.load, folder)


def test_weights_of_another_shape_are_refused(folder):
    edit(folder, width=48)
    refused("do not fit the plan's pruners", learnpruner.load, folder)


def edit(folder, **arguments):
    config = json.loads((folder / "config.json").read_text())
    config["stages"][0]["pruner"].update(arguments)
    (folder / "config.json").write_text(json.dumps(config))


def test_a_plan_for_another_width_is_refused_at_attach(folder):
    plan = learnpruner.load(folder)
    refused("width 32, the backbone has 64", lambda: plan.attach(tiny_llava(width=64)))


@pytest.mark.parametrize(
    ("target", "match"),
    [
        ("os.system", r"is not a Pruner of learnpruner\.pruners\.$"),
        ("tests.plan.test_plan.Foreign", r"where you trust tests, load it with allow=\('tests',\), or allow=\[tests\]"),
        ("learnpruner_evil.Evil", r"where you trust learnpruner_evil"),
        ("learnpruner.pruners_evil.Evil", r"is not a Pruner of learnpruner\.pruners\.$"),
        ("learnpruner.pruners.random.os.system", "does not have"),
        ("", r"is not a Pruner of learnpruner\.pruners\.$"),
        ("learnpruner.pruners.nothing.Nothing", "does not have"),
        ("learnpruner.pruners.random.Nothing", "does not have"),
        ("learnpruner.pruners.random.seeded_uniform", "is not a Pruner"),
        ("learnpruner.core.pruner.Pruner", "is not a Pruner"),
        ("learnpruner.plan.Plan", "is not a Pruner"),
        ("learnpruner.nano.pretrain.main", "is not a Pruner"),
    ],
)
def test_only_pruners_of_this_package_are_built(folder, target, match):
    edit(folder, _target_=target)
    refused(match, learnpruner.load, folder)


def test_other_packages_are_built_when_they_are_allowed(tmp_path):
    Plan([Stage(Foreign(2.0), "encoder")], 0.5).save(tmp_path / "p")
    refused("allow=", learnpruner.load, tmp_path / "p")
    loaded = learnpruner.load(tmp_path / "p", allow=(Foreign.__module__.partition(".")[0],))
    assert loaded.stages[0].pruner.power == 2.0


def test_arguments_that_do_not_fit_are_refused():
    refused("do not fit", build_pruner, {"_target_": "learnpruner.pruners.random.RandomPruner", "speed": 3})


def test_the_pruner_is_built_when_the_plan_meets_a_backbone():
    plan = two()
    assert not list(plan.parameters())
    with plan.on(MODEL):
        assert plan.stages[0].pruner.width == 32
    assert len(list(plan.parameters())) == 6


def test_a_budget_inside_a_budget_gives_way_to_the_outer_one():
    plan = two(ratio=0.25)
    with plan.budget(0.5):
        with plan.budget(0.75):
            assert plan.prune_ratio == 0.75
        assert plan.prune_ratio == 0.5
    assert plan.prune_ratio == 0.25
