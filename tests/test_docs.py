"""The pages name what is there: links, modules, config groups and their files, and the rooms as they import."""

import re
from importlib.util import find_spec
from pathlib import Path

import pytest

from tests.test_architecture import ROOMS, files, imports, room

ROOT = Path(__file__).resolve().parents[1]
PAGES = [
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    *sorted((ROOT / "docs").glob("*.md")),
    *sorted(ROOT.glob("*/README.md")),
]
LIVE = [page for page in PAGES if page.name != "LOG.md"]  # the log tells what was run then
LINK = re.compile(r"\]\(([^)\s]+)\)")
PATH = re.compile(r"`((?:learnpruner|conf|tests|docs|checkpoints|data)/[\w./-]+)`")
PROGRAM = re.compile(r"python -m (learnpruner[\w.]*\w)")
CHOICE = re.compile(r"(?<![\w.=/])(\w+)=(\[[^\]]*\]|[\w.-]+)")


def text(page):
    return page.read_text(encoding="utf-8")


def anchors(page):
    """Headings as GitHub turns them into anchors."""
    heads = re.findall(r"^#+ (.+)$", text(page), re.MULTILINE)
    return {re.sub(r"[^\w\s-]", "", head.lower()).strip().replace(" ", "-") for head in heads}


def commands(page):
    """Command lines of the page, in code blocks and in code spans."""
    return re.findall(r"python (?:train|eval)\.py[^`\n|]*", text(page))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page):
    for link in LINK.findall(text(page)):
        if not link.startswith(("http://", "https://")):
            file, _, anchor = link.partition("#")
            target = (page.parent / file).resolve() if file else page
            assert target.exists(), link
            if anchor:
                assert anchor in anchors(target), link


@pytest.mark.parametrize("page", LIVE, ids=lambda page: str(page.relative_to(ROOT)))
def test_programs_and_files_are_there(page):
    for module in PROGRAM.findall(text(page)):
        assert find_spec(module), module
    for path in PATH.findall(text(page)):
        made_up = "salient" in path or path.endswith(("/x.py", "/x.yaml")) or re.search(r"[A-Z]{4}|/[A-Z]+$", path)
        assert made_up or (ROOT / path).exists(), path


@pytest.mark.parametrize("page", LIVE, ids=lambda page: str(page.relative_to(ROOT)))
def test_configs_of_groups_are_there(page):
    groups = {path.name for path in (ROOT / "conf").iterdir() if path.is_dir()}
    for command in commands(page):
        if "--config-dir" in command:  # with configs of somebody's own
            continue
        for group, value in CHOICE.findall(command):
            for name in value.strip("[]").split(","):
                if group in groups and name.islower() and name not in ("null", "none", "salient", "x"):
                    assert (ROOT / "conf" / group / f"{name}.yaml").is_file(), f"{group}={name}"


def test_the_drawing_of_the_rooms_is_their_imports():
    drawing = text(ROOT / "docs/architecture.md").split("```mermaid")[1].split("```")[0]
    found = {(room(path), other) for path in files() for other in imports(path)}
    arrows = set(re.findall(r"^  (\w+) --> (\w+)$", drawing, re.MULTILINE))
    assert set(re.findall(r'^  (\w+)\["', drawing, re.MULTILINE)) == set(ROOMS)
    assert arrows and arrows <= found


def test_the_readme_has_a_line_a_room_and_is_short():
    page = text(ROOT / "README.md")
    assert set(re.findall(r"^\| `learnpruner/(\w+)` \|", page, re.MULTILINE)) == set(ROOMS)
    assert len(page.splitlines()) <= 120


def test_the_readmes_example_runs_as_it_stands(monkeypatch):
    (block,) = re.findall(r"```python\n(.*?)```", text(ROOT / "README.md"), re.DOTALL)
    monkeypatch.chdir(ROOT)
    names = {}
    exec(block, names)
    assert names["out"].shape[0] == 1
    assert "_pruning_engine" not in vars(names["model"])
