"""Names and sizes: every public name at the top of a module is the package's only one, modules and functions stay short."""

import ast
from collections import defaultdict
from pathlib import Path

import pytest

import learnpruner

PACKAGE = Path(learnpruner.__file__).parent
MODULES = sorted(PACKAGE.rglob("*.py"))
LONGEST_MODULE, LONGEST_FUNCTION = 250, 60


def names(tree):
    """Public names that a module defines itself."""
    for node in tree.body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            found = [node.name]
        elif isinstance(node, ast.Assign):
            found = [one.id for target in node.targets for one in ast.walk(target) if isinstance(one, ast.Name)]
        elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            found = [node.target.id]
        else:
            continue
        yield from (name for name in found if not name.startswith("_") and name != "main")


def test_every_public_name_is_unique_in_the_package():
    defined = defaultdict(set)
    for path in MODULES:
        for name in names(ast.parse(path.read_text(encoding="utf-8"))):
            defined[name].add(path.relative_to(PACKAGE).as_posix())
    assert {name: sorted(places) for name, places in defined.items() if len(places) > 1} == {}


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.relative_to(PACKAGE).as_posix())
def test_modules_and_functions_are_short(path):
    text = path.read_text(encoding="utf-8")
    functions = [node for node in ast.walk(ast.parse(text)) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]
    long = {one.name: one.end_lineno - one.lineno + 1 for one in functions}
    assert len(text.splitlines()) <= LONGEST_MODULE
    assert {name: lines for name, lines in long.items() if lines > LONGEST_FUNCTION} == {}


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.relative_to(PACKAGE).as_posix())
def test_modules_of_the_package_are_imported_under_their_own_names(path):
    imports = [
        node for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))) if isinstance(node, ast.ImportFrom)
    ]
    own = [alias for node in imports if (node.module or "").startswith("learnpruner") for alias in node.names]
    assert [alias.asname for alias in own if alias.asname not in (None, alias.name)] == []
