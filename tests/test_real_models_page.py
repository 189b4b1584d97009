"""docs/real_models.md: every command composes, those with a stand-in run, and its numbers are those of their sources."""

import json
import re
import shlex
import sys
from pathlib import Path

import pytest
import torch
from families import FAMILIES
from omegaconf import OmegaConf
from tiny_benchmarks import MAKERS

import eval as evaluation
import train
from learnpruner.backbones import load_backbone
from learnpruner.cli.main import hydra_main
from learnpruner.config.eval_config import EvalConfig
from learnpruner.config.train_config import TrainConfig
from learnpruner.data.scenes import write_folder
from learnpruner.evaluation import paper_results as reference
from learnpruner.plan.build import build_plan
from learnpruner.plan.pruner_configs import load_pruner_config
from learnpruner.profiling import compute_estimate as hours
from learnpruner.profiling.flops import prompt_cost
from tests.profiling.test_latency_task import NARROW

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "real_models.md").read_text(encoding="utf-8")
STAND_INS = {
    "llava15_7b": "llava",
    "llava15_13b": "llava",
    "llava_next_7b": "llava_next",
    "qwen2_5_vl_7b": "qwen2_5_vl",
}
STAND_INS |= {"llava_next_mistral_7b": "llava_next_mistral", "llava_onevision_7b": "llava_onevision"}
STAND_INS |= {"video_llava_7b": "video_llava", "qwen3_vl_8b": "qwen3_vl"}


def commands():
    """(program, its arguments) of each command of the page; a loop over $r counts once a value."""
    for block in re.findall(r"```bash\n(.*?)```", PAGE, re.DOTALL):
        values = [""]
        for line in block.replace("\\\n", " ").splitlines():
            loop = re.match(r"for r in (.*); do$", line)
            values = loop[1].split() if loop else values
            words = shlex.split(line)
            scripts = [word for word in words if word in ("train.py", "eval.py")]
            if scripts:
                asked = words[words.index(scripts[0]) + 1 :]
                yield from ((scripts[0][:-3], [word.replace("$r", value) for word in asked]) for value in values)


COMMANDS = list(commands())


def setting(arguments, name):
    return next((word.split("=", 1)[1] for word in arguments if word.startswith(f"{name}=")), None)


def named(command):
    script, arguments = command
    return f"{script}-{setting(arguments, 'backbone')}-{setting(arguments, 'benchmark')}-{setting(arguments, 'prune_ratio')}"


TRAININGS = [one for one in COMMANDS if one[0] == "train"]
MEASURED = [one for one in COMMANDS if setting(one[1], "benchmark") in ("speed", "train_step")]
SCORED = [one for one in COMMANDS if one[0] == "eval" and one not in MEASURED]


def test_the_page_names_every_backbone_that_there_is():
    assert {setting(arguments, "backbone") for _, arguments in TRAININGS} == set(STAND_INS)
    assert {path.stem for path in (ROOT / "conf" / "backbone").glob("*.yaml")} == {"nano", "nano_2", *STAND_INS}
    assert len(TRAININGS) >= 10 and len(MEASURED) == 4 and len(SCORED) >= 9


@pytest.mark.parametrize("command", COMMANDS, ids=named)
def test_every_command_composes(command, tmp_path, monkeypatch):
    script, arguments = command
    reached = []
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", [f"{script}.py", *arguments])
    hydra_main(ROOT / "conf", script)(lambda config, folder: reached.append(config))()
    (config,) = reached
    assert isinstance(config, {"train": TrainConfig, "eval": EvalConfig}[script])
    assert config.backbone.path.count("/") == 1 and config.backbone.dtype == "bfloat16"
    if script == "train":
        assert config.data.root == "/data/llava" and config.data.fraction == 0.1
        seen = config.trainer.max_steps * 8 * config.data.images_per_batch * config.trainer.accumulate_grad_batches
        assert config.trainer.devices == 8 and config.trainer.strategy == "ddp" and seen == 64_000


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with the training data, the benchmarks and a stand-in of each family, where the programs run."""
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("place")
    write_folder(folder / "llava", "train", 12, questions=2)
    (folder / "llava" / "train.json").rename(folder / "llava" / "llava_v1_5_mix665k.json")
    for name in set(STAND_INS.values()):
        FAMILIES[name].save(folder / name)
    for name, maker in MAKERS.items():
        maker(folder / name)
    return folder


@pytest.fixture
def run(place, monkeypatch, capsys):
    """Runs a command of the page on stand-ins, from any machine; returns the run's folder and what was printed."""
    monkeypatch.chdir(place)

    def call(script, arguments, *more):
        name = f"run{len(list(place.glob('logs/*')))}"
        kept = [word for word in arguments if not word.startswith(("name=", "trainer.devices=", "benchmark.resume="))]
        swapped = {"trainer=ddp": "trainer=cpu", "data.root=/data/llava": f"data.root={place / 'llava'}"}
        small = [swapped.get(word, word) for word in kept if not re.match(r"benchmark\.datasets\..*\.source=", word)]
        asked = re.findall(r"\w+", setting(arguments, "benchmark") or "")
        local = [f"benchmark.datasets.{one}.source={place / one}" for one in asked if one in MAKERS]
        model = STAND_INS[setting(arguments, "backbone")]
        words = [*small, *local, f"backbone.path={place / model}", "backbone.dtype=float32", f"name={name}", *more]
        monkeypatch.setattr(sys, "argv", [f"{script}.py", *words])
        {"train": train, "eval": evaluation}[script].main()
        (folder,) = place.glob(f"logs/{name}/*/*")
        return folder, capsys.readouterr().out

    return call


SHORT = (
    "data.workers=0 data.fraction=1 trainer.max_steps=2 trainer.log_every_n_steps=1 trainer.accumulate_grad_batches=1 trainer.precision=32-true "
    "logger=csv callbacks.progress=false prune_ratio=0.25 benchmark.limit=2"
).split()


@pytest.mark.parametrize("command", TRAININGS[:1], ids=named)
def test_training_runs_as_the_page_says_and_its_export_is_evaluated(command, run):
    script, arguments = command
    longer = ("trainer.max_steps", "trainer.accumulate", "prune_ratio", "benchmark.limit")
    folder, said = run(script, [word for word in arguments if not word.startswith(longer)], *SHORT)
    config = json.loads((folder / "export" / "config.json").read_text())
    assert config["metrics"]["steps"] == 2
    backbone = setting(arguments, "backbone")
    scored = next(one for one in SCORED if setting(one[1], "backbone") == backbone)
    words = [word for word in scored[1] if not word.startswith("plan=")]
    table, said = run("eval", words, f"plan={folder / 'export'}", "benchmark.limit=2", "device=cpu")
    assert "RelAcc" in said
    assert ("paper: LearnPruner" in said) == ("--reference" in words)
    assert json.loads((table / "results.json").read_text())["samples"]


@pytest.mark.parametrize("command", SCORED[4:5], ids=named)
def test_scoring_runs_as_the_page_says(command, run):
    script, arguments = command
    words = [word for word in arguments if not word.startswith(("plan=", "prune_ratio=", "pruner="))]
    _, said = run(script, words, "pruner=random", "prune_ratio=0.25", "benchmark.limit=2", "device=cpu")
    assert "RelAcc" in said


@pytest.mark.parametrize("command", MEASURED[:2], ids=named)
def test_measuring_runs_as_the_page_says(command, tmp_path, monkeypatch):
    words = [*command[1], *NARROW, "device=cpu", "benchmark.warmup=0", "benchmark.repeats=1", "hydra.run.dir=run"]
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["eval.py", *words])
    evaluation.main()
    result = json.loads((tmp_path / "run" / "results.json").read_text())
    assert "random weights" in result["backbone"] and result["dtype"] == "bfloat16"


def test_the_papers_numbers_are_those_that_stand_beside_ours():
    for tokens, numbers in reference.TABLE.items():
        cells = [f"{value:g}" if value > 1000 else f"{value:.1f}" for value in numbers]
        (line,) = [line for line in PAGE.splitlines() if re.match(rf"\| {tokens}( \(unpruned\))? \|", line)]
        assert line.split(" | ")[1:9] == cells
        relacc = next(row.relacc for row in reference.paper_rows(reference.COLUMNS) if row.tokens == tokens)
        assert float(line.split(" | ")[9].strip(" |")) == pytest.approx(relacc, abs=0.06)


def test_the_hours_are_those_that_the_program_computes(monkeypatch, capsys):
    monkeypatch.chdir(ROOT)
    hours.main([])
    assert capsys.readouterr().out.strip() in PAGE


@pytest.mark.parametrize("name", ["llava15_7b", "llava_next_7b", "qwen2_5_vl_7b"])
def test_the_costs_are_those_of_the_closed_form(name):
    shape = OmegaConf.to_container(OmegaConf.load(ROOT / "conf" / "backbone" / f"{name}.yaml"))["shape"]
    backbone = load_backbone(name, dtype="bfloat16", device="meta", weights="random", shape=shape)
    family, cells = backbone.family, []
    for ratio in hours._RATIOS:
        plan = build_plan(load_pruner_config(ROOT / "conf" / "pruner" / "learnpruner.yaml", ratio), backbone)
        found = prompt_cost(backbone.model.config, plan, text=62)["pruned"]
        tokens = round(plan.tokens(family.tokens, family.layers)["averaged"])
        cells.append(f"{tokens}: {found['flops']['total'] / 1e12:.2f} T, {found['kv_bytes'] / 2**20:.0f} MiB")
    assert f"| {name} | " + " | ".join(cells) + " |" in PAGE.splitlines()
