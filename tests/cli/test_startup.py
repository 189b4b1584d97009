"""Programs that have nothing to compute load no heavy library: help, completion and refused settings are there at once."""

import subprocess
import sys
from pathlib import Path

import pytest

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
