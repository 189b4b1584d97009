"""Hugging Face's own model tests with a plan on every model: what fails newly, grouped by reason. Not part of the suite.

python tests/check_transformers.py CHECKOUT [--family llava ...] [--out FOLDER]

CHECKOUT is a clone of https://github.com/huggingface/transformers at the installed version's tag; its tests want `parameterized` and
`pytest-xdist` beside what this project installs. They run twice, unmodified and with a plan that keeps all tokens attached, as a user
would attach it, to every model that is built or loaded: results must not change. What is left must be refusals, each a sentence that
docs/engine.md lists; the exit code is 1 where anything else fails.
"""

from __future__ import annotations

import argparse
import functools
import importlib
import json
import os
import re
import subprocess
import sys
import tempfile
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "engine.md"
FAMILIES = ("llava", "llava_next", "llava_onevision", "video_llava", "qwen2_5_vl", "qwen3_vl")
OUTCOMES, KEEP_ALL = "KEEP_ALL_OUTCOMES", "KEEP_ALL_ATTACHED"  # how the plug-in is told what to do
WORDS = 5  # in a row that the page must have of a reason
DIFFERENCES = "## What else differs"  # where on the page other reasons than refusals stand


def main() -> None:
    asked = arguments()
    with tempfile.TemporaryDirectory() as place:
        folder = asked.out or Path(place)
        folder.mkdir(parents=True, exist_ok=True)
        before, after = (run(asked, folder, attached) for attached in (False, True))
        said = (folder / "unmodified.log").read_text(encoding="utf-8")
    passed = [test for test, (outcome, _) in before.items() if outcome == "passed"]
    if not passed:
        sys.exit(f"{said[-3000:]}\nNo test passes unmodified: are the checkout's packages for its tests installed?")
    newly = {test: after.get(test, ("failed", "it was not run"))[1] for test in passed if not held(after.get(test))}
    print(f"{len(passed)} tests pass unmodified; {len(passed) - len(newly)} of them with a plan that keeps all tokens.")
    page = PAGE.read_text(encoding="utf-8") if PAGE.is_file() else ""
    faults = report(newly, page)
    sys.exit(1 if faults else 0)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("checkout", type=Path)
    parser.add_argument("--family", nargs="+", choices=FAMILIES, default=FAMILIES)
    parser.add_argument("--out", type=Path, help="where the outcomes and pytest's output stay; nowhere by default")
    parser.add_argument("--keyword", default="", help="pytest's -k")
    asked = parser.parse_args()
    if not (asked.checkout / "tests" / "models").is_dir():
        parser.error(f"{asked.checkout} is no checkout of transformers: it has no tests/models.")
    return asked


def run(asked: argparse.Namespace, folder: Path, attached: bool) -> dict[str, tuple[str, str]]:
    """Outcome and reason of each test, in a process of its own."""
    checkout = asked.checkout.resolve()
    outcomes = (folder / ("attached.jsonl" if attached else "unmodified.jsonl")).resolve()
    outcomes.unlink(missing_ok=True)
    files = [
        path for name in asked.family for path in (checkout / "tests" / "models" / name).glob("test_modeling_*.py")
    ]
    ours = [str(path) for path in (checkout / "src", ROOT / "tests", ROOT) if path.is_dir()]
    settings = {OUTCOMES: str(outcomes), KEEP_ALL: str(int(attached)), "HF_HUB_OFFLINE": "1"}
    settings["PYTHONPATH"] = os.pathsep.join([*ours, os.environ.get("PYTHONPATH", "")])
    words = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-p",
        "check_transformers",
        "-p",
        "no:cacheprovider",
        "-o",
        "addopts=",
    ]
    words += [*(["-k", asked.keyword] if asked.keyword else []), *map(str, files)]
    with outcomes.with_suffix(".log").open("w") as log:
        subprocess.run(words, cwd=checkout, env=os.environ | settings, stdout=log, stderr=log)
    return dict(read(outcomes)) if outcomes.is_file() else {}


def read(path: Path) -> Iterator[tuple[str, tuple[str, str]]]:
    """The worst outcome of each test's phases and parts."""
    worst: dict[str, tuple[str, str]] = {}
    for line in path.read_text(encoding="utf-8").splitlines():
        test, outcome, reason = json.loads(line)
        if worst.get(test, ("",))[0] != "failed" and (outcome != "passed" or test not in worst):
            worst[test] = (outcome, reason)
    return iter(worst.items())


def held(outcome: tuple[str, str] | None) -> bool:
    """A test that is skipped with a plan was not held to anything."""
    return outcome is not None and outcome[0] == "passed"


def report(newly: dict[str, str], page: str) -> int:
    """Prints the reasons, those of most tests first; returns how many tests fail for a reason that is not listed."""
    groups: dict[str, list[str]] = defaultdict(list)
    for test, reason in newly.items():
        groups[re.sub(r"\d+", "N", reason)[:300]].append(test)
    faults = 0
    for tests in sorted(groups.values(), key=len, reverse=True):
        fine = listed(newly[tests[0]], page)
        faults += 0 if fine else len(tests)
        print(f"\n{len(tests)} tests, {'listed' if fine else 'NOT LISTED'}: {newly[tests[0]][:600]}")
        print("\n".join(f"    {test}" for test in tests))
    return faults


def listed(reason: str, page: str) -> bool:
    """Whether the page has words of it in a row: a refusal of ours anywhere, other errors among the known differences."""
    kind, _, sentence = reason.partition(": ")
    if not kind.endswith("UserError"):
        page = page.partition(DIFFERENCES)[2].partition("\n## ")[0]
    said, known = words_of(sentence), " ".join(words_of(page))
    runs = [" ".join(said[i : i + WORDS]) for i in range(len(said) - WORDS + 1)]
    return any(run in known for run in runs)


def words_of(text: str) -> list[str]:
    return re.findall(r"[a-z_]+", text.lower())


# -- the plug-in: -p check_transformers ---------------------------------------------------------------------------------


def pytest_configure(config: Any) -> None:
    if os.environ.get(KEEP_ALL) == "1":
        keep_all()


def pytest_runtest_logreport(report: Any) -> None:
    """A line for each phase and part of a test."""
    crash = getattr(report.longrepr, "reprcrash", None)
    reason = crash.message if crash is not None else str(report.longrepr or "")
    if (report.when == "call" or not report.passed) and OUTCOMES in os.environ:
        with Path(os.environ[OUTCOMES]).open("a", encoding="utf-8") as file:
            file.write(json.dumps([report.nodeid, report.outcome, " ".join(reason.split())[:2000]]) + "\n")


def keep_all() -> None:
    """Every model of the families that can answer gets a plan when its constructor, or `from_pretrained`, is done."""
    from transformers import PreTrainedModel

    for name in FAMILIES:
        module = importlib.import_module(f"transformers.models.{name}.modeling_{name}")
        own = [kind for kind in vars(module).values() if getattr(kind, "__module__", None) == module.__name__]
        for kind in own:
            if kind.__name__.endswith("ForConditionalGeneration") and issubclass(kind, PreTrainedModel):
                attached_when_done(kind)


def attached_when_done(kind: type) -> None:
    built, loaded = kind.__init__, kind.from_pretrained.__func__  # type: ignore[misc,attr-defined]
    loading: list[bool] = []

    @functools.wraps(built)
    def construct(self: Any, *args: Any, **kwargs: Any) -> None:
        built(self, *args, **kwargs)
        if type(self) is kind and not loading:
            attach(self)

    @functools.wraps(loaded)
    def load(cls: type, *args: Any, **kwargs: Any) -> Any:
        loading.append(True)
        try:
            found = loaded(cls, *args, **kwargs)
        finally:
            loading.pop()
        attach(found[0] if isinstance(found, tuple) else found)
        return found

    kind.__init__, kind.from_pretrained = construct, classmethod(load)  # type: ignore[misc,attr-defined]


def attach(model: Any) -> None:
    """A plan of two stages, at the encoder and in the middle of the LLM, that keeps every token.

    Where a model adds image features behind its middle, the second stage is at the LLM's input.
    """
    from plans import Norm

    from learnpruner import Plan, Stage
    from learnpruner.pruners.text_attention import TextAttention
    from learnpruner.utils.errors import UserError

    try:
        Plan([Stage(Norm(), "encoder"), Stage(TextAttention(), "1/2")], 1.0).eval().attach(model)
    except UserError:
        Plan([Stage(Norm(), "encoder"), Stage(Norm(), 0)], 1.0).eval().attach(model)


if __name__ == "__main__":
    main()
