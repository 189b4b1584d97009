"""The papers' table: a row a plan, a column a benchmark, RelAcc last; the paper's own rows on demand."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from learnpruner.benchmarks.public import PublicBenchmark
from learnpruner.evaluation import paper_results as reference
from learnpruner.evaluation.results import UNPRUNED
from learnpruner.evaluation.tables import Result, Table, interval, named

ORDER = (*reference.COLUMNS, "vizwiz", "seed", "tgif", "msvd", "msrvtt")


def columns(benchmarks: Mapping[str, PublicBenchmark]) -> dict[str, PublicBenchmark]:
    """The benchmarks in the paper's order, those that the paper has not behind them."""
    names = sorted(benchmarks, key=lambda name: ORDER.index(name) if name in ORDER else len(ORDER))
    return {name: benchmarks[name] for name in names}


def number(value: float | None, decimals: int) -> str:
    return "-" if value is None else f"{value:.{decimals}f}"


def suite(result: Result, benchmarks: Mapping[str, PublicBenchmark], label: str, paper: bool = False) -> Table:
    """The unpruned model, baselines from worst to best, the plan as `label`, and the paper's rows."""
    shown = columns(benchmarks)

    def row(name: str, tokens: str, scores: Mapping[str, float | None], last: str) -> list[str]:
        return [name, tokens, *(number(scores[key], one.decimals) for key, one in shown.items()), last]

    def ours(name: str, part: Mapping[str, Any]) -> list[str]:
        scores = {key: result["scores"][name][key]["score"] for key in shown}
        return row(named(name, part), f"{part['tokens']['averaged']:.1f}", scores, interval(part["retention"]))

    unpruned = {key: result["scores"][UNPRUNED][key]["score"] for key in shown}
    cells = [["plan", "tokens", *(one.title for one in shown.values()), "RelAcc, 95 %"]]
    cells.append(row(UNPRUNED, "all", unpruned, "100.0"))
    ranked = sorted(result["baselines"].items(), key=lambda item: (item[1]["retention"]["value"] or 0.0, item[0]))
    cells += [ours(name, part) for name, part in ranked]
    if result["plan"] is not None:
        cells.append(ours(label, result))
    if paper:
        cells += [row(r.name, str(r.tokens), r.scores, number(r.relacc, 1)) for r in reference.rows(list(shown))]
    return cells


def notes(result: Result, benchmarks: Mapping[str, PublicBenchmark], paper: bool = False) -> str:
    """What each column is, which of them RelAcc leaves out, and what the paper's rows are."""
    shown, unpruned = columns(benchmarks), result["scores"][UNPRUNED]
    lines = [
        f"{one.title}: {one.caption(unpruned[key])}, {result['settings'][key]['samples']} samples."
        for key, one in shown.items()
    ]
    nothing = [one.title for key, one in shown.items() if not unpruned[key]["score"]]
    without = f", without {', '.join(nothing)}, where the unpruned model scores nothing" if nothing else ""
    lines.append(f"RelAcc: mean over the columns of score / own unpruned score{without}.")
    if paper:
        covered = [one.title for key, one in shown.items() if key in reference.COLUMNS]
        lines.append(f"The paper's rows are LLaVA-1.5-7B's; their RelAcc is over {', '.join(covered) or 'no column'}.")
    return "\n".join(lines)
