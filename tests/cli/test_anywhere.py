"""Both programs, and the package alone, from a folder that is not the project's."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from learnpruner.plan.export import resolve_export
from learnpruner.utils.errors import UserError
from learnpruner.utils.project import find_checkpoint

ROOT = Path(__file__).parents[2]
PLAN, BACKBONE = "checkpoints/nano-r0.055", "checkpoints/nano-llava"
GENERATES = """
import sys, torch, learnpruner
from transformers import AutoModelForImageTextToText
from learnpruner.plan.pruner_configs import load_pruner_config
from learnpruner.utils.errors import UserError
from pathlib import Path
print(learnpruner.__file__)
model = AutoModelForImageTextToText.from_pretrained(sys.argv[1])
image, size = model.config.image_token_id, model.config.vision_config.image_size
inputs = {"input_ids": torch.tensor([[1] + [image] * model.model.get_image_features(
    torch.zeros(1, 3, size, size)).pooler_output[0].shape[0] + [5, 6]]), "pixel_values": torch.ones(1, 3, size, size)}
with learnpruner.load(sys.argv[2]).on(model):
    print(model.generate(**inputs, max_new_tokens=2, min_new_tokens=2, do_sample=False).shape[1] - inputs["input_ids"].shape[1])
try:
    load_pruner_config(Path("conf/pruner/learnpruner.yaml"), 0.1)
except UserError as error:
    print(error)
"""


def started(folder, program, *words):
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), "WANDB_MODE": "disabled"}
    done = subprocess.run(
        [sys.executable, str(ROOT / program), *words], cwd=folder, capture_output=True, text=True, env=environment
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def results_of(folder, said):
    path = folder / said.splitlines()[-1].removeprefix("results: ")
    assert path.is_relative_to(folder)
    return json.loads(path.read_text())


def test_a_plan_is_evaluated(tmp_path):
    found = results_of(tmp_path, started(tmp_path, "eval.py", "benchmark.limit=7", "benchmark.baselines_to_run=[]"))
    assert (found["plan"], found["backbone"]) == (PLAN, BACKBONE)


def test_a_plan_is_trained_and_published_here(tmp_path):
    said = started(
        tmp_path, "train.py", "trainer.max_steps=2", "benchmark.limit=7", "benchmark.baselines_to_run=[]", "name=away"
    )
    found = results_of(tmp_path, said)
    assert found["backbone"] == BACKBONE
    (copy,) = (tmp_path / "checkpoints").iterdir()
    assert (
        copy.name.startswith("away-") and json.loads((copy / "config.json").read_text())["backbone"]["name"] == BACKBONE
    )
    assert str(ROOT) not in (copy / "README.md").read_text() + (copy / "config.json").read_text()


def test_what_lies_here_comes_before_what_is_shipped(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert find_checkpoint(PLAN) == ROOT / PLAN
    shutil.copytree(ROOT / PLAN, tmp_path / PLAN)
    assert resolve_export(PLAN) == Path(PLAN)


@pytest.mark.parametrize("name", ["some/model", "conf/pruner", "checkpoints/nothing"])
def test_other_names_stay_as_they_are(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert find_checkpoint(name) == Path(name)


def test_a_local_name_does_not_blame_the_hub(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match="No plan at 'checkpoints/nothing'") as refused:
        resolve_export("checkpoints/nothing")
    assert "Hub" not in str(refused.value)


def test_the_package_alone(tmp_path):
    copy = shutil.copytree(ROOT / "learnpruner", tmp_path / "site" / "learnpruner")
    command = [sys.executable, "-c", GENERATES, str(ROOT / BACKBONE), str(ROOT / PLAN)]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, env={"PYTHONPATH": str(copy.parent)})
    where, tokens, told = done.stdout.splitlines()
    assert (where, tokens) == (str(copy / "__init__.py"), "2"), done.stderr
    assert "conf/ lies in the project's folder" in told
