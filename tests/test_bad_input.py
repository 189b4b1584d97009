"""The short form of tests/bad_input.py; all cases are in docs/reliability.md, and every test that the page names is there."""

import ast
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from bad.case import Case, Outcome
from bad.cases import all_of_them
from bad.table import cell, cut, markdown

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs/reliability.md").read_text(encoding="utf-8")


def test_the_short_form_is_right_throughout():
    done = subprocess.run([sys.executable, "tests/bad_input.py", "--short"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0 and " 0 wrong" in done.stdout, done.stdout + done.stderr


def test_there_are_at_least_200_inputs_and_20_faults_of_every_kind():
    cases = all_of_them()
    assert sum(not case.fault for case in cases) >= 200 and sum(case.fault for case in cases) >= 20
    kinds = Counter(case.kind for case in cases)
    for kind in ("setting", "export", "backbone", "checkpoint", "picture", "question", "JSON record", "parquet record"):
        assert kinds[kind] >= 10, kind
    assert len({(case.kind, case.name) for case in cases}) == len(cases)


def test_the_page_has_every_case_with_its_verdict():
    rows = Counter(row for row in PAGE.splitlines() if row.startswith("| `") and row.endswith("| right |"))
    named = Counter(row.split(" | ")[0].removeprefix("| ") for row in rows.elements())
    assert named >= Counter(cell(cut(case.name)) for case in all_of_them())


NAMED = re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", PAGE)


@pytest.mark.parametrize("file", sorted({file for file, _ in NAMED}))
def test_every_test_that_the_page_names_is_there(file):
    tree = ast.parse((ROOT / file).read_text(encoding="utf-8"))
    held = {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}
    assert {name for its, name in NAMED if its == file} <= held


def test_a_case_that_changes_what_others_need_is_wrong(tmp_path):
    from bad.world import World

    (tmp_path / "world").mkdir()
    (tmp_path / "world/export").write_text("whole")
    world = World(tmp_path / "world", ((), b""))

    def harmful(stage):
        (stage.folder / "export").write_text("spoiled")
        return Outcome(2, "error")

    assert "other runs" in Case("setting", "x", harmful).run(world).verdict
    assert Case("setting", "y", lambda stage: Outcome(2, "said")).run(world).verdict == "right"
    assert "KeyError" in Case("setting", "z", lambda stage: {}["no"]).run(world).verdict


def test_a_program_s_output_is_judged():
    from bad.case import faults_of
    from bad.process import Ended

    assert faults_of(Ended(2, "", "error: x is 1; it must be 2.\n"), ["x is 1"]) == []
    for code, out, err in (
        (0, "", "error: x is 1\n"),
        (2, "", ""),
        (2, "", "error: x is 1\nerror: x is 1\n"),
        (2, "", "error: y\n"),
        (2, "results: x\n", "error: x is 1\n"),
        (2, "", "Traceback (most recent call last)\nerror: x is 1\n"),
    ):
        assert faults_of(Ended(code, out, err), ["x is 1"]), err


def test_a_table_stays_a_table():
    said = markdown([Outcome(2, "a | b\nc", kind="setting", name="x`y|z\n")])
    assert said.splitlines()[-1] == "| `x'y\\|z\\n` | 2 | `a \\| b\\nc` | right |"
