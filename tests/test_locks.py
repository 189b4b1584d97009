"""What is installed is the same by `make` and by `uv sync`, and every file of it is known by its hash."""

import re
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[1]
LOCK = (ROOT / "requirements.lock").read_text(encoding="utf-8")
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
TORCH = re.search(r"^TORCH \?= (\S+)$", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)[1]


def pins(lines):
    return {canonicalize_name(name): number for name, number in (line.split("==") for line in lines)}


LOCKED = pins(re.findall(r"^([\w.-]+==[\w.]+)", LOCK, re.MULTILINE))


def test_every_package_has_hashes_and_torch_is_named_apart():
    blocks = re.split(r"\n(?=\w)", LOCK)[1:]
    assert len(blocks) == len(LOCKED) and all("--hash=sha256:" in block for block in blocks)
    assert "torch" not in LOCKED and TORCH.startswith("torch==")


def test_uv_takes_the_versions_of_the_lock():
    assert pins(PROJECT["tool"]["uv"]["constraint-dependencies"]) == LOCKED | pins([TORCH])


def test_the_lock_meets_what_the_project_asks_for():
    extras = PROJECT["project"]["optional-dependencies"]
    asked = [Requirement(line) for line in [*PROJECT["project"]["dependencies"], *extras["dev"]]]
    for one in asked:
        found = (LOCKED | pins([TORCH]))[canonicalize_name(one.name)]
        assert one.specifier.contains(found), one


def test_no_file_names_where_packages_are_fetched_from():
    for path in ("requirements.lock", "pyproject.toml", "Makefile", "Dockerfile", ".github/workflows/ci.yml"):
        text = (ROOT / path).read_text(encoding="utf-8")
        assert not re.search(r"https?://|--(extra-)?index-url|--find-links", text), path


def test_docstrings_become_pages(tmp_path):
    pdoc = pytest.importorskip("pdoc")
    pdoc.render.configure(docformat="google")
    pdoc.pdoc("learnpruner.core.budget", "learnpruner.plan.hub", output_directory=tmp_path)
    page = (tmp_path / "learnpruner/plan/hub.html").read_text(encoding="utf-8")
    assert "push_to_hub" in page and re.search(r"Arguments?:</h6>.*repo_id", page, re.DOTALL)
