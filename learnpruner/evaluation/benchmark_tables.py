"""The papers' table: a row a plan, a column a benchmark, RelAcc last; the paper's own rows on demand."""

from __future__ import annotations

from collections.abc import Mapping
from operator import itemgetter

from learnpruner.benchmarks.public import PublicBenchmark
from learnpruner.evaluation import paper_results
from learnpruner.evaluation.difficult import DIFFICULT_NOTE
from learnpruner.evaluation.results import UNPRUNED
from learnpruner.evaluation.table_format import (
    PLAN_COLUMNS,
    Column,
    Result,
    Table,
    build_table,
    decimal,
    difficult_column,
    plan_rows,
)

ORDER = (
    *paper_results.COLUMNS,
    "vizwiz",
    "seed",
    "ocrbench",
    "chartqa",
    "docvqa",
    "ai2d",
    "mmstar",
    "tgif",
    "msvd",
    "msrvtt",
)


def ordered_benchmarks(benchmarks: Mapping[str, PublicBenchmark]) -> dict[str, PublicBenchmark]:
    """List the benchmarks in the paper's order, those that the paper has not behind them."""
    names = sorted(benchmarks, key=lambda name: ORDER.index(name) if name in ORDER else len(ORDER))
    return {name: benchmarks[name] for name in names}


def benchmark_table(
    result: Result, benchmarks: Mapping[str, PublicBenchmark], label: str, paper: bool = False
) -> Table:
    """A line each for the unpruned model, baselines from worst to best, the plan as `label`, and the paper's rows."""
    shown = ordered_benchmarks(benchmarks)

    def column(key: str) -> Column:
        return Column(shown[key].title, lambda row: decimal(row["scores"][key], shown[key].decimals))

    rows = plan_rows(result, label)
    difficult = difficult_column(rows)
    for row in rows:
        row["scores"] = {key: result["scores"][row["plan"]][key]["score"] for key in shown}
    for one in paper_results.paper_rows(list(shown)) if paper else ():
        kept = decimal(one.relacc)
        rows.append({"name": one.name, "tokens": str(one.tokens), "scores": one.scores, "kept": kept})
    columns = [*PLAN_COLUMNS, *map(column, shown), Column("RelAcc, 95 %", itemgetter("kept")), *difficult]
    return build_table(columns, rows)


def benchmark_notes(result: Result, benchmarks: Mapping[str, PublicBenchmark], paper: bool = False) -> str:
    """Say what each column is, which of them RelAcc leaves out, and what the paper's rows are."""
    shown, unpruned = ordered_benchmarks(benchmarks), result["scores"][UNPRUNED]
    lines = [
        f"{one.title}: {one.caption(unpruned[key])}, {result['settings'][key]['samples']} samples."
        for key, one in shown.items()
    ]
    nothing = [one.title for key, one in shown.items() if not unpruned[key]["score"]]
    without = f", without {', '.join(nothing)}, where the unpruned model scores nothing" if nothing else ""
    lines.append(f"RelAcc: mean over the columns of score / own unpruned score{without}.")
    if result.get("difficult"):
        lines.append(DIFFICULT_NOTE)
    if paper:
        covered = [one.title for key, one in shown.items() if key in paper_results.COLUMNS]
        lines.append(f"The paper's rows are LLaVA-1.5-7B's; their RelAcc is over {', '.join(covered) or 'no column'}.")
    return "\n".join(lines)
