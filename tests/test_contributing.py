"""The example of CONTRIBUTING.md: its two files, written as they stand into a copy of the project, are a whole method."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.tiny_folder import tiny_folder

ROOT = Path(__file__).parent.parent
BLOCK = re.compile(r"`((?:learnpruner|conf)/\S+)`[^`]*\n\n```\w+\n(.*?)```\n", re.DOTALL)
FILES = dict(BLOCK.findall((ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")))
NAME = Path(next(iter(FILES))).stem


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    """A copy of the project with the example's files in it."""
    copy = tmp_path_factory.mktemp("project")
    for folder in ("learnpruner", "conf", "tests"):
        shutil.copytree(ROOT / folder, copy / folder, ignore=shutil.ignore_patterns("__pycache__"))
    for file in ("eval.py", "pyproject.toml"):
        shutil.copy(ROOT / file, copy / file)
    for path, text in FILES.items():
        assert not (copy / path).exists()
        (copy / path).write_text(text, encoding="utf-8")
    return copy


def ran(project, *command):
    environment = {**os.environ, "PYTHONPATH": str(project), "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run([sys.executable, *command], cwd=project, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return done.stdout


def test_a_method_is_two_files_of_under_60_lines():
    assert sorted(Path(path).suffix for path in FILES) == [".py", ".yaml"]
    assert {Path(path).stem for path in FILES} == {NAME}
    assert sum(len(text.splitlines()) for text in FILES.values()) < 60


def test_it_is_evaluated_and_has_its_row_in_the_table(project, tmp_path):
    said = ran(
        project, "eval.py", "benchmark=peers", f"benchmark.methods=[{NAME},random]", "prune_ratios=[0.25]", "device=cpu",
        f"backbone.path={tiny_folder(tmp_path / 'tiny')}", "benchmark.limit=7", "benchmark.selection_repeats=0",
    )  # fmt: skip
    result = json.loads(Path(project, said.splitlines()[-1].removeprefix("results: ")).read_text())
    rows = {row["method"]: row for row in result["rows"]}
    assert rows[NAME]["status"] == "ok"
    assert rows[NAME]["tokens"]["averaged"] == 16


def test_the_suites_hold_it_to_their_properties(project):
    said = ran(project, "-m", "pytest", "-p", "no:cacheprovider", "tests/pruners/test_every_method.py",
               "tests/pruners/test_every_plan.py", "-k", NAME)  # fmt: skip
    assert int(re.search(r"(\d+) passed", said).group(1)) > 15
