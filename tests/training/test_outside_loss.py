"""The loss term of docs/extending.md: its two files, written as they stand outside the project, train by the package's term."""

import csv
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import learnpruner
from tests.tiny_folder import tiny_folder

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs/extending.md").read_text(encoding="utf-8")
FILES = dict(re.findall(r"`((?:mine|configs)/\S+)`:\n\n```\w+\n(.*?)```\n", PAGE, re.DOTALL))
SETTINGS = """logger=csv callbacks.progress=false trainer.accelerator=cpu trainer.precision=32-true trainer.max_steps=2
trainer.log_every_n_steps=1 data.images_per_batch=1 data.questions_per_image=2 data.workers=0 prune_ratio=0.2
grad_tokens_per_image=8 benchmark.limit=2 benchmark.num_examples=0 benchmark.baselines_to_run=[]""".split()


@pytest.fixture(scope="module")
def outside(tmp_path_factory):
    """A folder with the package and its config, and nothing of the project."""
    folder = tmp_path_factory.mktemp("outside")
    for path, text in FILES.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_text(text, encoding="utf-8")
    (folder / "mine/__init__.py").touch()
    tiny_folder(folder / "tiny")
    return folder


def test_the_page_says_how_many_lines_it_takes():
    assert sorted(FILES) == ["configs/loss/sure.yaml", "mine/losses.py"]
    lines = sum(len(text.splitlines()) for text in FILES.values())
    assert f"| a loss term, of a package of your own | {lines} in two files |" in PAGE
    assert f"loss terms ({lines} lines in two files)" in (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")


def test_a_term_of_an_outside_package_trains_exports_and_evaluates(outside):
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(outside)]), "OMP_NUM_THREADS": "1"}
    line = [
        sys.executable,
        ROOT / "train.py",
        "--config-dir=configs",
        "loss=sure",
        "backbone.path=tiny",
        "hydra.run.dir=run",
    ]
    done = subprocess.run([*line, *SETTINGS], cwd=outside, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    rows = [row for row in csv.DictReader((outside / "run/metrics.csv").open()) if row.get("loss")]
    assert [int(row["step"]) for row in rows] == [0, 1]
    assert all(float(row["sure"]) > 0 for row in rows) and "kl" not in rows[0]
    results = json.loads((outside / "run/results.json").read_text())
    assert results["samples"] == 2
    assert "mine" not in (outside / "run/export/config.json").read_text()
    plan = learnpruner.load(outside / "run/export")  # without the package
    assert all(torch.isfinite(value).all() for value in plan.state_dict().values())


def test_the_term_is_what_it_says(outside, monkeypatch):
    monkeypatch.syspath_prepend(str(outside))
    from mine.losses import SureWords

    from learnpruner.training.outputs import AnswerLogits, StepOutputs

    torch.manual_seed(0)
    student, teacher = torch.randn(5, 7, requires_grad=True), torch.randn(5, 7)
    outputs = StepOutputs(AnswerLogits(student, torch.zeros(5).long()), AnswerLogits(teacher, torch.zeros(5).long()))
    expected = 0.0
    for row in range(5):
        sure, word = teacher[row].softmax(0).max(0)
        expected -= sure**0.5 * student[row].softmax(0)[word].log() / 5
    torch.testing.assert_close(SureWords(trust=0.5)(outputs), expected)
