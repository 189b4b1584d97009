"""The arrows between rooms: imports run downwards only, and nothing names a method."""

import ast
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from learnpruner.pretrained import NO_CODE

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "learnpruner"

# A room may import from these, and from itself; whoever is not listed is above them all.
BELOW: dict[str, set[str]] = {
    "arguments": set(),
    "errors": set(),
    "context": set(),
    "selection": set(),
    "budget": set(),
    "relaxation": set(),
    "files": set(),
    "public": set(),
    "pruner": {"selection"},
    "finite": set(),
    "exported": set(),
    "export": {"exported", "files", "finite", "pruner", "public"},
    "pretrained": set(),
    "pruners": {"pretrained", "pruner", "relaxation", "selection"},
    "adapt": {"export", "exported", "finite", "public"},
    "plan": {"adapt", "budget", "context", "export", "finite", "pruner"},
    "engine": {"context", "plan", "pruner", "selection", "budget"},
    "backbones": {"engine", "plan", "pretrained", "pruner", "selection"},
    "objective": set(),
    "retention": set(),
    "data": {"arguments", "benchmarks"},  # a table of questions is read alike for training and for scoring
    "benchmarks": {"data"},
    "passes": {"backbones", "data", "objective"},
    "lesson": {"backbones", "data", "passes", "plan", "pruner", "selection"},
    "lit": {
        "backbones",
        "budget",
        "data",
        "engine",
        "lesson",
        "objective",
        "passes",
        "plan",
        "relaxation",
        "selection",
    },
    "results": {"export", "files", "public", "retention"},
    "evaluate": {"backbones", "benchmarks", "data", "engine", "plan", "results"},
    "cost": {"backbones", "plan"},
    "latency": {"backbones", "plan"},
}
# The facade looks up while it runs: plan.on(model) finds the model's family and the engine.
LOOKS_UP = {("plan", "backbones"), ("plan", "engine")}


# What programs are made of: nothing else in the package builds on these.
ROOFS = {"ask", "heads", "kv", "lmms", "nano", "peers", "suite", "sweep", "train_step"}


def files():
    return sorted(PACKAGE.rglob("*.py"))


def room(path):
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imports(path, lazily):
    """Rooms that a file imports from: at the top, or also inside functions."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    typing_only = {n for node in ast.walk(tree) if is_typing(node) for n in ast.walk(node)}
    found = ast.walk(tree) if lazily else tree.body
    for node in found:
        if node in typing_only:
            continue
        names = []
        if isinstance(node, ast.ImportFrom):
            assert not node.level, f"{path}: import by the full name"
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        yield from (name.split(".")[1] for name in names if name.startswith("learnpruner."))


def is_typing(node):
    return isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"


@pytest.mark.parametrize("path", [p for p in files() if room(p) in BELOW], ids=lambda p: str(p.relative_to(PACKAGE)))
def test_imports_run_downwards(path):
    here = room(path)
    allowed = BELOW[here] | {here, "errors"}
    assert set(imports(path, lazily=False)) <= allowed
    upwards = {(here, name) for name in imports(path, lazily=True)} - {(here, name) for name in allowed}
    assert upwards <= LOOKS_UP


@pytest.mark.parametrize(
    "path", [p for p in files() if room(p) != "pruners"], ids=lambda p: str(p.relative_to(PACKAGE))
)
def test_nothing_imports_a_method(path):
    assert "pruners" not in set(imports(path, lazily=True))


@pytest.mark.parametrize("path", [p for p in files() if room(p) in BELOW], ids=lambda p: str(p.relative_to(PACKAGE)))
def test_classes_take_numbers_and_objects_not_configs(path):
    modules = [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Import | ast.ImportFrom)]
    assert not any(name in ast.unparse(node) for node in modules for name in ("hydra", "omegaconf"))


def test_every_method_has_a_config_and_every_config_a_method():
    targets = set()
    for path in (ROOT / "conf" / "pruner").glob("*.yaml"):
        stages = OmegaConf.to_container(OmegaConf.load(path))["stages"] or []
        targets |= {stage["pruner"]["_target_"].rsplit(".", 1)[0] for stage in stages}
    methods = {f"learnpruner.pruners.{p.stem}" for p in (PACKAGE / "pruners").glob("[!_]*.py")}
    assert targets == methods


def test_rooms_do_not_lean_on_each_other_in_circles():
    below = {}
    for path in files():
        below.setdefault(room(path), set()).update(set(imports(path, lazily=False)) - {room(path)})
    below["data"].remove("benchmarks")  # and back: one floor, see BELOW
    while free := {name for name, rooms in below.items() if not rooms & set(below)}:
        below = {name: rooms for name, rooms in below.items() if name not in free}
    assert not below


@pytest.mark.parametrize("path", files(), ids=lambda p: str(p.relative_to(PACKAGE)))
def test_what_is_raised_for_the_user_is_a_user_error(path):
    """Programs print a `UserError` as a sentence; all other errors keep their stack traces."""
    raised = [node.exc for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Raise) and node.exc]
    plain = [ast.unparse(one.func) for one in raised if isinstance(one, ast.Call)]
    assert not {"ValueError", "OSError", "FileNotFoundError", "ConnectionError"} & set(plain)


PROGRAMS = [ROOT / "train.py", ROOT / "eval.py"]


@pytest.mark.parametrize("path", [*files(), *PROGRAMS], ids=lambda p: str(p.relative_to(ROOT)))
def test_nothing_that_is_loaded_runs_code(path):
    """Neither a model's own files (`trust_remote_code`) nor pickles."""
    calls = [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call)]
    for call in calls:
        name, said = ast.unparse(call.func), ast.unparse(call)
        if name.endswith((".from_pretrained", ".from_config")):
            assert "**NO_CODE" in said, said
        if name == "torch.load":
            assert "weights_only=True" in said, said
        assert name not in ("pickle.load", "pickle.loads", "np.load", "eval", "exec", "joblib.load"), said
    assert NO_CODE == {"trust_remote_code": False}


@pytest.mark.parametrize("path", files(), ids=lambda p: str(p.relative_to(PACKAGE)))
def test_nothing_builds_on_a_program_s_own_room(path):
    assert set(imports(path, lazily=True)) & ROOFS <= {room(path)}
