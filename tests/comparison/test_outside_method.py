"""A method of somebody's own package, with a config in a folder of their own, stands in the tables beside the others."""

import json
import runpy
import sys
from pathlib import Path

import pytest
import torch

from learnpruner.plan.pruner_configs import PrunerConfigs
from learnpruner.utils.errors import UserError
from tests.tiny_folder import tiny_folder

ROOT = Path(__file__).parents[2]
CODE = """
from learnpruner import ScorePruner


class Loudest(ScorePruner):
    def score(self, view):
        return view.tokens.float().norm(dim=-1)
"""
CONFIG = """
_target_: learnpruner.plan.Plan
prune_ratio: ${prune_ratio}
stages:
  - pruner: {_target_: noisy.Loudest}
    at: encoder
"""
FAST = ["device=cpu", "benchmark.limit=4", "benchmark.batch_size=4"]
COMPARED = [
    "benchmark.downsampling=false",
    "benchmark=compare_methods",
    "prune_ratios=[0.25]",
    "benchmark.selection_repeats=1",
    *FAST,
]


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with the package `noisy`, its config, and a tiny backbone."""
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("outside")
    (folder / "noisy.py").write_text(CODE)
    (folder / "conf" / "pruner").mkdir(parents=True)
    (folder / "conf" / "pruner" / "loudest.yaml").write_text(CONFIG)
    tiny_folder(folder / "tiny")
    return folder


@pytest.fixture
def run(place, tmp_path, monkeypatch, capsys):
    """Runs eval.py there: exit code, the folder of the run, error lines."""

    def start(*arguments):
        folder = tmp_path / f"run{len(list(tmp_path.iterdir()))}"
        monkeypatch.chdir(place)
        monkeypatch.syspath_prepend(str(place))
        words = ["--config-dir=conf", "backbone.path=tiny", f"hydra.run.dir={folder}", *arguments]
        monkeypatch.setattr(sys, "argv", ["eval.py", *words])
        try:
            runpy.run_path(str(ROOT / "eval.py"), run_name="__main__")
            code = 0
        except SystemExit as stop:
            code = stop.code
        return code, folder, [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]

    return start


def test_it_stands_in_the_comparison_where_its_package_is_trusted(run):
    asked = [*COMPARED, "benchmark.methods=[loudest,random]"]
    code, folder, said = run(*asked)
    assert code == 2
    (sentence,) = said
    assert "conf/pruner/loudest.yaml" in sentence and sentence.endswith("add allow=[noisy].")
    assert not (folder / "results.json").exists()
    code, folder, said = run(*asked, "allow=[noisy]")
    assert (code, said) == (0, [])
    rows = {row["method"]: row for row in json.loads((folder / "results.json").read_text())["rows"]}
    assert list(rows) == ["loudest", "random"]
    assert rows["loudest"]["status"] == "ok" and rows["loudest"]["accuracy"] is not None
    assert rows["loudest"]["tokens"]["averaged"] == 16
    assert rows["loudest"]["selection_ms"] > 0
    assert "| loudest |" in (folder / "peers.md").read_text()


def test_it_stands_beside_a_plan_as_a_baseline(run):
    asked = ["pruner=random", "prune_ratio=0.25", "+benchmark.baselines.loud=loudest", *FAST]
    asked += ["benchmark.baselines_to_run=[loud]", "benchmark.num_examples=0"]
    code, _, said = run(*asked)
    assert code == 2 and "The baseline 'loud'" in said[0] and said[0].endswith("add allow=[noisy].")
    code, folder, _ = run(*asked, "allow=[noisy]")
    assert code == 0
    assert list(json.loads((folder / "results.json").read_text())["baselines"]) == ["loud"]


def test_a_package_of_the_search_path_is_searched_too(run, place):
    (place / "noisy_conf" / "pruner").mkdir(parents=True)
    (place / "noisy_conf" / "pruner" / "shout.yaml").write_text(CONFIG)
    (place / "noisy_conf" / "__init__.py").touch()
    asked = [*COMPARED, "benchmark.selection_repeats=0", "benchmark.methods=[shout]", "allow=[noisy]"]
    code, folder, _ = run(*asked, "hydra.searchpath=[pkg://noisy_conf]")
    assert code == 0
    assert [row["status"] for row in json.loads((folder / "results.json").read_text())["rows"]] == ["ok"]


def test_the_first_folder_that_has_a_name_counts_and_is_trusted(tmp_path):
    own, other = tmp_path / "own", tmp_path / "other"
    for folder, names in ((own, "ab"), (other, "bc")):
        folder.mkdir()
        for name in names:
            (folder / f"{name}.yaml").write_text(CONFIG)
    configs = PrunerConfigs((own, other))
    assert configs.files() == {"a": own / "a.yaml", "b": own / "b.yaml", "c": other / "c.yaml"}
    assert configs.find("b") == own / "b.yaml"
    with pytest.raises(UserError, match=r"asks for 'noisy.Loudest'.* add allow=\[noisy\]"):
        configs.find("c")
    assert PrunerConfigs((own, other), ("noisy",)).find("c") == other / "c.yaml"
    with pytest.raises(UserError, match="no config 'd'"):
        configs.find("d")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (CONFIG + "    share: 3\n", "pruner.stages.*.share is called pruner.stages.*.token_share now"),
        ("defaults: [learnpruner]\n", "has a defaults list"),
    ],
)
def test_a_file_that_is_read_otherwise_than_it_is_meant_is_refused(text, said, tmp_path):
    (tmp_path / "x.yaml").write_text(text)
    with pytest.raises(UserError) as raised:
        PrunerConfigs((tmp_path,)).load("x", 0.5)
    assert said in str(raised.value) and "x.yaml" in str(raised.value)
