"""Runs cases by their numbers and says what became of each."""

from __future__ import annotations

import traceback
from collections import Counter
from dataclasses import dataclass, field

from fuzz.case import draw
from fuzz.check import Check, Refused, Tie

AGAIN = 6  # plans that are drawn for a case, one after the other, while they are refused


@dataclass
class Outcome:
    """mismatches: a sentence each. refused: the engine's sentences; spent: no plan was carried out. tie: nothing could be said."""

    number: int
    case: str = ""
    mismatches: list[str] = field(default_factory=list)
    refused: Counter[str] = field(default_factory=Counter)
    spent: bool = False
    tie: bool = False


def run(seed: int, number: int) -> Outcome:
    """Case `number` of a seed; a plan that is refused, for a reason that is listed, makes place for another."""
    outcome = Outcome(number)
    for again in range(AGAIN):
        case = draw(seed, number, again)
        outcome.case = str(case)
        check = Check(case)
        outcome.mismatches = check.found
        try:
            check.run()
            return outcome
        except Refused as refused:
            outcome.refused[str(refused)] += 1
        except Tie:
            outcome.tie = True
            return outcome
        except Exception as error:
            where = traceback.extract_tb(error.__traceback__)[-1]
            said = " ".join(str(error).split())
            outcome.mismatches += [
                f"{type(error).__name__} in {where.filename.rpartition('/')[2]}:{where.lineno}: {said}"
            ]
            return outcome
    outcome.spent = True
    return outcome
