"""Programs that have nothing to compute load no heavy library: help, completion and refused settings are there at once."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.tiny_folder import tiny_folder

ROOT = Path(__file__).parents[2]
HEAVY = {"torch", "transformers", "lightning", "wandb", "datasets", "matplotlib", "sklearn", "peft", "scipy"}
TOLD = """
import runpy, sys
program, sys.argv = sys.argv[1], sys.argv[1:]
try:
    runpy.run_path(program, run_name="__main__")
except SystemExit:
    pass
print("loaded:", *sorted(name for name in sys.modules if "." not in name))
"""


def loaded(program, folder, *words):
    """Top-level modules that a program has loaded when it ends, started in another folder than the project's."""
    command = [sys.executable, "-c", TOLD, str(ROOT / program), *words]
    said = subprocess.run(command, cwd=folder, capture_output=True, text=True, env={"PYTHONPATH": str(ROOT)})
    return set(said.stdout.splitlines()[-1].split()[1:]), said.stderr


@pytest.mark.parametrize("program", ["train.py", "eval.py"])
@pytest.mark.parametrize("word", ["--help", "prune_ratio=2", "no_key=1", "backbone.dtype=int8", "backbone=nothing"])
def test_what_computes_nothing_loads_nothing_heavy(program, word, tmp_path):
    found, said = loaded(program, tmp_path, word)
    assert "hydra" in found and not HEAVY & found
    assert word == "--help" or said.startswith("error: ")


def test_an_evaluation_loads_no_library_that_it_does_not_use(tmp_path):
    """matplotlib comes with the first picture, datasets with the first table, W&B and Lightning with a training."""
    few = ["backbone.path=tiny", "pruner=uniform", "prune_ratio=0.2", "device=cpu", "benchmark.limit=1"]
    tiny_folder(tmp_path / "tiny")
    found, said = loaded("eval.py", tmp_path, *few, "benchmark.num_examples=0", "benchmark.baselines_to_run=[]")
    assert "transformers" in found and list(tmp_path.glob("logs/eval/runs/*/results.json")), said
    assert not {"datasets", "matplotlib", "wandb", "lightning", "pandas", "pyarrow", "peft", "sklearn"} & found


def test_a_room_loads_a_library_when_it_uses_it():
    """Lightning brings matplotlib along, by torchmetrics; what draws with it here is not loaded."""
    rooms = """cli.train_run cli.sweep_table training.loggers training.metrics_file evaluation.accuracy_task evaluation.suite_task
    benchmarks.pope benchmarks.textvqa benchmarks.video_qa comparison.task kv_eviction.conversation_task""".split()
    script = "import importlib, sys; [importlib.import_module(f'learnpruner.{one}') for one in sys.argv[1:]]; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", script, *rooms], cwd=ROOT, capture_output=True, text=True, check=True)
    found = set(done.stdout.split())
    assert {f"learnpruner.{room}" for room in rooms} <= found
    assert not {"datasets", "wandb", "pyarrow", "peft"} & found
    assert not {"learnpruner.evaluation.plots", "learnpruner.comparison.plot"} & found


def test_the_package_loads_what_is_asked_for():
    script = (
        "import sys, learnpruner; assert 'torch' not in sys.modules; learnpruner.load; assert 'torch' in sys.modules"
    )
    subprocess.run([sys.executable, "-c", script], cwd=ROOT, check=True)
    script = "from learnpruner import *; print(Plan.__name__, Selection.__name__)"
    assert (
        subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True).stdout
        == "Plan Selection\n"
    )
