"""The paper's rows for LLaVA-1.5-7B, to stand beside ours. https://arxiv.org/abs/2604.23950"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

COLUMNS = ("gqa", "scienceqa", "textvqa", "pope", "mme", "vqav2", "mmbench", "mmbench_cn")
TABLE = {
    576: (61.9, 69.5, 58.2, 85.9, 1862, 78.5, 64.7, 58.3),
    128: (60.3, 68.5, 57.3, 86.7, 1820, 77.3, 63.8, 56.8),
    64: (58.9, 68.3, 56.6, 86.8, 1750, 76.0, 62.6, 55.7),
    32: (57.2, 68.2, 56.1, 84.5, 1672, 74.0, 60.8, 55.5),
}


@dataclass(frozen=True)
class PaperRow:
    """A row of the paper's tables.

    Args:
        name: of the method.
        tokens: on the layers' average.
        scores: in the papers' units, None where the paper has no number.
        relacc: in percent.
    """

    name: str
    tokens: int
    scores: dict[str, float | None]
    relacc: float | None


def paper_rows(benchmarks: Sequence[str]) -> list[PaperRow]:
    """List the unpruned model's row, then LearnPruner's; RelAcc is over those of `benchmarks` that the paper has."""
    whole = dict(zip(COLUMNS, TABLE[576], strict=True))
    found = []
    for tokens, numbers in TABLE.items():
        known = dict(zip(COLUMNS, numbers, strict=True))
        ratios = [known[name] / whole[name] for name in benchmarks if name in known]
        name = "paper: unpruned" if tokens == 576 else "paper: LearnPruner"
        mean = 100 * sum(ratios) / len(ratios) if ratios else None
        found.append(PaperRow(name, tokens, {one: known.get(one) for one in benchmarks}, mean))
    return found
