"""Runs the methods on golden vectors: python tests/golden.py DIR

Every DIR/<stem>.safetensors holds tensors named `case/tensor` and, in its header, the cases' hyper-parameters as JSON. What
a case lacks comes from the case with the longest name that is a prefix of its own up to an underscore. `goldens/<stem>.py`
says what is compared. One line a case; the exit code is 1 if any differs, or if nothing was compared.
"""

from __future__ import annotations

import copy
import importlib
import importlib.util
import json
import sys
import textwrap
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

Check = Callable[[str, dict[str, Tensor], dict[str, Any]], bool]
CHECKERS = "goldens"
ROOT = str(Path(__file__).resolve().parents[1])  # the package is found where it is not installed, too
KEPT = ("keep_indices", "keep_mask")  # two ways to say one thing: a case that says either takes neither from above
WRONG = ("DIFFERS", "NO CHECKER", "BROKEN CHECKER", "UNREADABLE", "NOTHING COMPARED")


@dataclass(frozen=True)
class Line:
    """What became of one case, or of a file as a whole (case "")."""

    file: str
    case: str
    verdict: str
    why: str = ""

    @property
    def wrong(self) -> bool:
        return self.verdict in WRONG

    def __str__(self) -> str:
        return "  ".join(part for part in (f"{self.file:<16}", f"{self.case:<40}", self.verdict) if part) + (
            f": {self.why}" if self.why else ""
        )


def parent(case: str, cases: Iterable[str]) -> str | None:
    """The case that `case` takes what it lacks from: the longest proper prefix up to an underscore."""
    return max((other for other in cases if case.startswith(other + "_")), key=len, default=None)


def lineage(case: str, cases: Iterable[str]) -> list[str]:
    """`case` and all that it inherits from, the furthest first."""
    found, known = [case], list(cases)
    while (above := parent(found[0], known)) is not None:
        found.insert(0, above)
    return found


def read(path: Path) -> Iterator[tuple[str, dict[str, Tensor], dict[str, Any]]]:
    """Each case of a file with its tensors and hyper-parameters, inherited ones included; tensors are fresh copies.

    A tensor is found under its own name and, where a case has one of the same name as a case above it, as `case/tensor`.
    `cases` among the hyper-parameters holds those of every case of the file, for cases that follow from others.
    """
    with safe_open(str(path), "pt") as file:
        keys = [key for key in file.keys() if "/" in key]  # noqa: SIM118 (a safetensors handle is no mapping)
        settings = {
            name: found for name, text in (file.metadata() or {}).items() if (found := _object(text)) is not None
        }
        cases = sorted({key.split("/", 1)[0] for key in keys} | set(settings))
        for case in cases:
            tensors: dict[str, Tensor] = {}
            above: dict[str, str] = {}  # the full name of each
            given: dict[str, Any] = {"cases": copy.deepcopy(settings)}
            for one in lineage(case, cases):
                own = {key: key.split("/", 1)[1] for key in keys if key.startswith(one + "/")}
                for short in KEPT if set(KEPT) & set(own.values()) else ():
                    tensors.pop(short, None)
                for key, short in own.items():
                    if short in tensors:
                        tensors[above[short]] = tensors[short]
                    tensors[short], above[short] = file.get_tensor(key).clone(), key
                given |= settings.get(one, {})
            yield case, tensors, given


def _object(text: str) -> dict[str, Any] | None:
    """Hyper-parameters of a case; other header entries, such as format=pt, are none."""
    try:
        found = json.loads(text)
    except json.JSONDecodeError:
        return None
    return found if isinstance(found, dict) else None


def checker(stem: str) -> Check | None:
    """`check` of the module of that name, None where there is no such module."""
    if not stem.isidentifier() or importlib.util.find_spec(f"{CHECKERS}.{stem}") is None:
        return None
    check: Check = importlib.import_module(f"{CHECKERS}.{stem}").check
    return check


def judge(check: Check, case: str, tensors: dict[str, Tensor], settings: dict[str, Any]) -> tuple[str, str]:
    """The verdict on one case, and why. A method that fails to run differs."""
    try:
        return ("ok" if check(case, tensors, settings) else "inputs only"), ""
    except AssertionError as error:
        return "DIFFERS", _short(error) or "an assertion without words"
    except Exception as error:  # one broken method must not hide the others' cases
        return "DIFFERS", f"{type(error).__name__}: {_short(error)}"


def _short(error: Exception) -> str:
    return textwrap.shorten(" ".join(str(error).split()), 200)


def compare(path: Path) -> Iterator[Line]:
    """A line for each case of a file."""
    try:
        check = checker(path.stem)
    except Exception as error:  # one broken checker must not hide the other files
        yield Line(path.stem, "", "BROKEN CHECKER", f"{type(error).__name__}: {_short(error)}")
        return
    if check is None:
        yield Line(
            path.stem, "", "NO CHECKER", f"no method of this name is compared; write tests/{CHECKERS}/{path.stem}.py"
        )
        return
    compared = False
    try:
        for case, tensors, settings in read(path):
            verdict, why = judge(check, case, tensors, settings)
            compared |= verdict != "inputs only"
            yield Line(path.stem, case, verdict, why)
    except (SafetensorError, OSError) as error:
        yield Line(path.stem, "", "UNREADABLE", _short(error))
        return
    if not compared:
        yield Line(path.stem, "", "NOTHING COMPARED", "no case of this file holds an output that the checker knows")


def files(folder: Path) -> list[Path]:
    """The golden files of a folder."""
    if not folder.is_dir():
        raise ValueError(f"{folder} is no folder; give one that holds golden *.safetensors files.")
    found = sorted(folder.glob("*.safetensors"))
    if not found:
        raise ValueError(f"{folder} holds no *.safetensors file; give a folder of golden vectors.")
    return found


def main(arguments: list[str]) -> int:
    """Prints a line a case and a summary; 0 where all agree, 1 where any differs, 2 for a bad argument."""
    if len(arguments) != 1:
        print("usage: python tests/golden.py DIR", file=sys.stderr)
        return 2
    try:
        paths = files(Path(arguments[0]))
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    torch.set_num_threads(1)
    sys.path[:0] = [] if ROOT in sys.path else [ROOT]
    lines: list[Line] = []
    for path in paths:
        for line in compare(path):
            print(line, flush=True)
            lines.append(line)
    counts = {name: sum(line.verdict == name for line in lines) for name in ("ok", "inputs only")}
    wrong = sum(line.wrong for line in lines)
    print(f"\n{len(paths)} files: {counts['ok']} cases ok, {wrong} wrong, {counts['inputs only']} with inputs only")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
