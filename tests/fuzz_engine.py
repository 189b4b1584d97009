"""Fuzzes the engine against deletion by plain Hugging Face modules: python tests/fuzz_engine.py --cases 2000

A case is a tiny model of one of six families, a batch, a plan and what follows; it follows from --seed and its number. One
line a mismatch, with what replays it, and a summary; the exit code is 1 if there was any.
"""

from __future__ import annotations

import argparse
import itertools
import os
import sys
import time
from collections import Counter
from pathlib import Path

sys.path.insert(
    0, str(Path(__file__).resolve().parents[1])
)  # the package beside these tests, wherever another is installed
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch
import transformers
from fuzz.case import kind
from fuzz.run import Outcome, run
from fuzz.subjects import KINDS


def numbers(cases: int, family: str | None) -> list[int]:
    """The first cases, of a family if one is named."""
    every = (number for number in itertools.count() if family in (None, kind(number)[0]))
    return list(itertools.islice(every, cases))


def summary(outcomes: list[Outcome], seconds: float) -> str:
    """What was run, what was refused, what could not be told, what was wrong."""
    refused = sum((outcome.refused for outcome in outcomes), Counter[str]())
    lines = [f"refused {count} plans: {why}" for why, count in refused.most_common()]
    spent, ties = (sum(getattr(outcome, name) for outcome in outcomes) for name in ("spent", "tie"))
    wrong = sum(bool(outcome.mismatches) for outcome in outcomes)
    lines.append(
        f"{len(outcomes)} cases in {seconds:.0f} s: {wrong} with mismatches, {ties} decided by a tie, "
        f"{spent} without a plan that is carried out."
    )
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", type=int, default=200, help="how many")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--family", choices=sorted({name for name, _ in KINDS}), help="of this family alone")
    parser.add_argument("--case", type=int, help="this one alone")
    given = parser.parse_args()
    torch.set_num_threads(1)
    transformers.logging.set_verbosity_error()
    started, outcomes = time.monotonic(), []
    for number in numbers(given.cases, given.family) if given.case is None else [given.case]:
        outcome = run(given.seed, number)
        outcomes.append(outcome)
        for mismatch in outcome.mismatches:
            print(f"{outcome.case}: {mismatch}; replay: --seed {given.seed} --case {number}", flush=True)
        if given.case is not None:
            print(outcome.case)
    print(summary(outcomes, time.monotonic() - started))
    return int(any(outcome.mismatches for outcome in outcomes))


if __name__ == "__main__":
    sys.exit(main())
