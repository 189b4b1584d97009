"""Plans and evictions by the calls that Hugging Face users know: what is pushed is a whole export, whose card tells the truth."""

import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from huggingface_hub import ModelCard
from tiny import ids, inputs, tiny_llava

import learnpruner
from learnpruner import Plan, Stage, kv_eviction
from learnpruner.backbones import family_of
from learnpruner.kv_eviction import Eviction
from learnpruner.kv_eviction.policies.trimkv import TrimKV
from learnpruner.plan import hub
from learnpruner.plan.hub import Evaluation, write_retention
from learnpruner.pruners.learnpruner import LearnedPruner
from learnpruner.pruners.text_attention import TextAttention

MODEL = tiny_llava()
RESULT = Evaluation(
    "scenes", 400, 8.7, 0.958, 0.948, 0.968, "python eval.py plan=/home/somebody/plan", "0123456789", "a CPU"
)


@pytest.fixture
def plan():
    made = Plan([Stage(LearnedPruner(), "encoder", 3), Stage(TextAttention(), "12/32")], 0.25)
    return made.prepare(family_of(MODEL)).eval()


@pytest.fixture
def export(plan, tmp_path):
    plan.save(tmp_path / "export", "some/llava", "abc", {"steps": 9, "loss": 0.123456}, "Trained in a test.")
    plan.add_evaluation(tmp_path / "export", RESULT)
    return tmp_path / "export"


@pytest.fixture
def hosted(monkeypatch, tmp_path):
    """A stand-in for the Hub: what is uploaded lies in a folder, from which a snapshot is taken."""
    kept = tmp_path / "hub"

    class Api:
        def __init__(self, token=None):
            self.token = token

        def create_repo(self, repo_id, private=None, exist_ok=False):
            assert exist_ok
            return SimpleNamespace(repo_id=repo_id if "/" in repo_id else f"me/{repo_id}")

        def upload_folder(self, repo_id, folder_path, revision=None, create_pr=False, commit_message=""):
            shutil.copytree(folder_path, kept / repo_id / (revision or "main"))
            return SimpleNamespace(commit_url=f"{repo_id}/commit/1")

    monkeypatch.setattr(hub, "HfApi", Api)
    monkeypatch.setattr(
        "learnpruner.plan.export.snapshot_download",
        lambda repo, revision=None, allow_patterns=(): kept / repo / (revision or "main"),
    )
    return kept


def answers(plan):
    batch = inputs([ids(1), ids(1, seed=4)])
    with torch.no_grad(), plan.on(MODEL):
        return MODEL(**batch).logits


def card(folder):
    return (Path(folder) / "README.md").read_text()


def test_what_is_pushed_is_loaded_as_it_was(plan, export, hosted):
    loaded = Plan.from_pretrained(export)
    assert loaded.push_to_hub("plan", revision="v1") == "me/plan/commit/1"
    again = Plan.from_pretrained("me/plan", revision="v1")
    assert torch.equal(answers(again), answers(plan))
    before, after = (json.loads((one / "config.json").read_text()) for one in (export, hosted / "me/plan/v1"))
    assert after == before
    assert 'learnpruner.load("me/plan")' in card(hosted / "me/plan/v1")


def test_an_eviction_is_pushed_likewise(hosted, tmp_path):
    made = Eviction(TrimKV(), 16).prepare(family_of(MODEL))
    made.save(tmp_path / "export", "some/llava", metrics={"steps": 2}, notes="Trained in a test.")
    loaded = Eviction.from_pretrained(tmp_path / "export")
    loaded.push_to_hub("me/gates")
    again = kv_eviction.load_eviction("me/gates", budget=8)
    assert (again.budget, again.evict_interval) == (8, 16)
    text = card(hosted / "me/gates/main")
    assert "https://arxiv.org/abs/2512.03324" in text and "Args:" not in text
    assert "Trained in a test." in text and "| steps | 2 |" in text and 'kv_eviction.load_eviction("me/gates")' in text


def test_the_card_is_valid_and_has_the_result_with_its_interval(export):
    loaded = ModelCard.load(export / "README.md")
    assert loaded.data.library_name == "learnpruner" and loaded.data.base_model == "some/llava"
    (result,) = loaded.data.eval_results
    assert (result.dataset_name, result.metric_type, result.metric_value) == ("scenes", "retention", 95.8)
    assert "| scenes | 400 | 8.7 | 95.8 | [94.8, 96.8] | 0123456 | a CPU |" in loaded.content
    assert "| loss | 0.1235 |" in loaded.content and "Trained in a test." in loaded.content


def test_nothing_that_is_pushed_says_where_things_lie(export, hosted):
    loaded = learnpruner.load(export)
    loaded.push_to_hub("me/plan")
    for path in (hosted / "me/plan/main").rglob("*.*"):
        if path.suffix in (".json", ".md"):
            text = path.read_text()
            assert not any(told in text for told in ("somebody", str(export), str(Path.home()) + "/", "/tmp"))


@pytest.mark.parametrize("change", ["budget", "weights"])
def test_what_was_measured_is_not_said_of_another_plan(export, tmp_path, change):
    loaded = learnpruner.load(export)
    if change == "budget":
        loaded.prune_ratio = 0.5
    else:
        next(loaded.parameters()).data.add_(1)
    text = card(loaded.save_pretrained(tmp_path / "other"))
    assert "95.8" not in text and "Trained in a test." not in text and "0.1235" not in text
    assert "some/llava" in text  # what it was made for is so still


def test_a_later_result_takes_the_place_of_the_earlier_one(plan, export, tmp_path):
    results = {
        "benchmark": "scenes", "samples": 14, "tokens": {"averaged": 8.7}, "commit": None,
        "retention": {"value": 0.5, "low": 0.4, "high": 0.6},
    }  # fmt: skip
    (tmp_path / "results.json").write_text(json.dumps(results))
    write_retention(plan, {export}, tmp_path / "results.json", torch.device("cpu"))
    assert "| scenes | 14 | 8.7 | 50.0 | [40.0, 60.0] | unknown |" in card(export) and "95.8" not in card(export)
    assert answers(learnpruner.load(export)).isfinite().all()


@pytest.mark.parametrize("retention", [None, {"value": None, "low": None, "high": None}])
def test_a_run_without_retention_leaves_the_card_as_it_is(plan, export, tmp_path, retention):
    before = card(export)
    (tmp_path / "results.json").write_text(json.dumps({"retention": retention}))
    write_retention(plan, {export}, tmp_path / "results.json", torch.device("cpu"))
    assert card(export) == before
