"""The arrows between rooms: imports run downwards only, and nothing names a method."""

import ast
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from learnpruner.utils.pretrained import NO_CODE

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "learnpruner"

# A room may import from those before it, and from itself.
ROOMS = """utils core config pruners backbones adapters engine plan data benchmarks training evaluation profiling comparison
kv_eviction nano integrations cli""".split()


def files():
    return sorted(PACKAGE.rglob("*.py"))


def room(path):
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def module(path):
    return ".".join(path.relative_to(PACKAGE).with_suffix("").parts).removesuffix(".__init__")


NAMES = {module(path) for path in files()}


def modules(path):
    """Modules of this package that a file imports, wherever in it."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        names = []
        if isinstance(node, ast.ImportFrom):
            assert not node.level, f"{path}: import by the full name"
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        for name in names:
            if name.startswith("learnpruner."):
                name = name.removeprefix("learnpruner.")
                while name not in NAMES:
                    name = name.rpartition(".")[0]
                yield name


def imports(path):
    """Rooms that a file imports from."""
    return {name.partition(".")[0] for name in modules(path)}


def test_the_package_has_no_other_rooms():
    assert {room(path) for path in files()} - {"__init__"} == set(ROOMS)
    assert len(list(PACKAGE.glob("[!_]*"))) <= 20


@pytest.mark.parametrize("path", [p for p in files() if room(p) in ROOMS], ids=lambda p: str(p.relative_to(PACKAGE)))
def test_imports_run_in_one_direction(path):
    """At the top of a file, inside functions and for types alike."""
    here = room(path)
    assert set(imports(path)) <= set(ROOMS[: ROOMS.index(here) + 1])


def test_modules_do_not_lean_on_each_other_in_circles():
    below = {}
    for path in files():
        below[module(path)] = {name for name in modules(path) if name != module(path)}
    while free := {name for name, rooms in below.items() if not rooms & set(below)}:
        below = {name: rooms for name, rooms in below.items() if name not in free}
    assert not below


@pytest.mark.parametrize(
    "path", [p for p in files() if room(p) != "pruners"], ids=lambda p: str(p.relative_to(PACKAGE))
)
def test_nothing_imports_a_method(path):
    assert "pruners" not in imports(path)


CONFIGURED = ("config", "cli", "plan", "comparison", "profiling", "nano")


@pytest.mark.parametrize(
    "path", [p for p in files() if room(p) not in CONFIGURED], ids=lambda p: str(p.relative_to(PACKAGE))
)
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
