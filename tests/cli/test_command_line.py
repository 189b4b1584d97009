"""What a person types after a setting that holds text reaches the program as it stands."""

import sys
from pathlib import Path

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from hypothesis import example, given, settings
from hypothesis import strategies as st
from omegaconf import OmegaConf

from learnpruner.cli.command_line import as_typed, literal
from learnpruner.cli.main import hydra_main
from learnpruner.config.eval_config import EvalConfig
from learnpruner.config.key_names import text_keys
from learnpruner.config.train_config import TrainConfig

CONF = Path(__file__).parents[2] / "conf"
TYPED = [
    "Is it red, or blue?",
    "What's in it?",
    "it's what he called \"Bob's\" house",
    "which of [a, b] (or {c: d})?",
    "two\nlines\tand a tab",
    "<image>\nwhat is it?",
    "Was ist das für ein Ding? 这是什么",
    " blanks around ",
    "a=b",
    "100% ${HOME} \\${x} \\\\",
    "${unclosed",
    "~+@:;|*?!#$&<>",
    "my picture (1).png",
    "1e3",
    "0.50",
    "007",
    "1_000",
    "True",
    "range(1,3)",
    "choice(a,b)",
    "'begins in quotes",
    "'a' and 'b'",
    "-",
]


@pytest.fixture
def run(tmp_path, monkeypatch):
    """The configs that reach the program for a command line."""
    monkeypatch.chdir(tmp_path)

    def call(name, *arguments):
        reached = []
        monkeypatch.setattr(sys, "argv", [f"{name}.py", *arguments])
        hydra_main(CONF, name)(lambda config, folder: reached.append((config, folder)))()
        return reached

    return call


@pytest.mark.parametrize("text", TYPED)
def test_text_is_taken_as_it_stands_and_kept_with_the_run(run, text):
    ((config, folder),) = run("eval", f"question={text}", f"image={text}", f"++plan={text}")
    assert (config.question, config.image, config.plan) == (text, text, text)
    assert OmegaConf.to_container(OmegaConf.load(folder / "config.yaml"), resolve=True)["question"] == text


@pytest.mark.parametrize("text", ["a b, c (1)", "it's=1", "[x]"])
def test_every_path_and_name_is_text(run, text):
    ((config, _),) = run(
        "train", "data=llava_json", f"data.json={text}", f"data.images={text}", f"data.root={text}", f"name={text}",
        f"backbone.path={text}",
    )  # fmt: skip
    found = {config.data.json_file, config.data.images, config.data.root, config.name, config.backbone.path}
    assert found == {text}


def test_text_without_a_schema_is_text_where_it_can_be_nothing_else(run):
    source = "my data (1)/it's here"
    ((config, _),) = run("eval", "benchmark=pope", f"benchmark.datasets.pope.source={source}", "benchmark.limit=3")
    assert config.benchmark["datasets"]["pope"]["source"] == source and config.benchmark["limit"] == 3


def test_a_run_s_folder_may_be_called_anything(run, tmp_path):
    ((_, folder),) = run("eval", f"hydra.run.dir={tmp_path}/it's my run (1)")
    assert folder == tmp_path / "it's my run (1)"


def test_null_quotes_and_settings_of_other_types_stay_what_they_were(run):
    ((config, _),) = run("eval", "plan=null", "question='a, b'", 'image="c, d"', "seed=3")
    assert (config.plan, config.question, config.image, config.seed) == (None, "a, b", "c, d", 3)
    ((config, _),) = run("eval", "benchmark=peers", "prune_ratios=[0.5,0.2]")
    assert config.prune_ratios == [0.5, 0.2]


def test_a_sweep_stays_a_sweep(run):
    asked = [config.question for config, _ in run("eval", "-m", "question=a,b c", "image=x")]
    assert asked == ["a", "b c"]
    asked = [config.question for config, _ in run("eval", "question='is it a, or b?',why", "image=x", "-m")]
    assert asked == ["is it a, or b?", "why"]
    asked = [config.question for config, _ in run("eval", "--multirun", "question=it's a, isn't it", "image=x")]
    assert asked == ["it's a, isn't it"]


def test_the_schema_says_what_is_text():
    found = set(text_keys(TrainConfig))
    assert {"name", "plan", "ckpt_path", "data.json", "data.root", "data.source", "backbone.path"} <= found
    assert not {"seed", "prune_ratio", "copy", "trainer.devices", "backbone.shape", "pruner"} & found
    assert {"question", "image"} <= set(text_keys(EvalConfig))


SIGNS = st.text(st.sampled_from("ab1 ,'\"\\${}[]()=:\n\t<>?é日~+@|%#-.") | st.characters(codec="utf-8"), max_size=15)


@settings(derandomize=True, deadline=None, max_examples=300)
@given(SIGNS)
@example("\\${a}\\")
@example("${")
def test_any_text_passes_through_hydra_unchanged(text):
    quoted = text.strip()[:1] in ("'", '"') and text.strip()[-1:] == text.strip()[:1]
    if quoted or text.strip().lower() == "null" or "\0" in text:
        return
    word = as_typed(["eval.py", f"question={text}"], EvalConfig)[1]
    held = OverridesParser.create().parse_override(word).value()
    config = OmegaConf.create({"question": held})
    assert OmegaConf.to_container(config, resolve=True)["question"] == text
    kept = OmegaConf.create({"question": literal(text)})
    assert OmegaConf.to_container(kept, resolve=True)["question"] == text
