"""Bad input and faults, counted: python tests/bad_input.py

Each case is a program of the project in a process of its own, with an input that is wrong or odd, or with a fault while it runs.
One line a case: the input, the exit code, the sentence, the verdict. What is wrong must be refused in one sentence, without a
stack trace and with an exit code, and nothing that was there may be lost; what only looks wrong must be carried out. The exit
code is 1 where a verdict is not "right".
"""

from __future__ import annotations

import argparse
import json
import os
import re
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict
from multiprocessing import get_context
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # the package beside these tests
os.environ.update(HF_HUB_OFFLINE="1", OMP_NUM_THREADS="1", WANDB_MODE="offline")

import datasets
import torch
import transformers
from bad import cases
from bad.case import Case, Outcome
from bad.table import line, markdown, summary
from bad.world import World, build

PAGE = Path(__file__).resolve().parents[1] / "docs/reliability.md"
MARK = "<!-- made by: python tests/bad_input.py --page -->"

torch.set_num_threads(1)
transformers.logging.set_verbosity_error()
transformers.logging.disable_progress_bar()
datasets.disable_progress_bars()


def outcomes(chosen: list[Case], folder: Path, jobs: int) -> list[Outcome]:
    """Every case, a few side by side."""
    world = build(folder)
    width = max((len(f"{case.kind}: {case.name}") for case in chosen), default=0)
    found = []
    with ProcessPoolExecutor(jobs, get_context("fork"), initializer=told, initargs=(world, chosen)) as pool:
        for outcome in pool.map(run, range(len(chosen))):
            print(line(outcome, width), flush=True)
            found.append(outcome)
    return found


HELD: list[tuple[World, list[Case]]] = []  # in a worker process: plays are functions, which do not travel


def told(world: World, chosen: list[Case]) -> None:
    HELD.append((world, chosen))


def run(number: int) -> Outcome:
    world, chosen = HELD[-1]
    return chosen[number].run(world)


def cpu() -> float:
    """Seconds of processors that this process and all that it has waited for took."""
    return sum(os.times()[:4])


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--short", action="store_true", help="a case or two of each kind")
    parser.add_argument("--only", type=re.compile, help="cases whose kind and name hold this regular expression")
    parser.add_argument("--jobs", type=int, default=2, help="cases side by side")
    parser.add_argument("--page", action="store_true", help="write the tables into docs/reliability.md")
    parser.add_argument("--json", type=Path, help="a file for what came of each case")
    asked = parser.parse_args()
    chosen = [one for one in cases.all_of_them() if one.short or not asked.short]
    if asked.only is not None:
        chosen = [one for one in chosen if asked.only.search(f"{one.kind} {one.name}")]
    start = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="bad-") as folder:
        found = outcomes(chosen, Path(folder), asked.jobs)
    print(summary(found, time.monotonic() - start, cpu()))
    if asked.json is not None:
        asked.json.write_text(json.dumps([asdict(one) for one in found], indent=1), encoding="utf-8")
    if asked.page:
        before = PAGE.read_text(encoding="utf-8").partition(MARK)[0]
        PAGE.write_text(f"{before}{MARK}\n\n{markdown(found)}", encoding="utf-8")
    return int(any(one.wrong for one in found))


if __name__ == "__main__":
    sys.exit(main())
