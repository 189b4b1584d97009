"""The table that a run prints, and the one over a sweep, made from results (the contents of results.json) alone."""

from __future__ import annotations

from collections.abc import Sequence
from operator import itemgetter

from learnpruner.evaluation.table_format import (
    PLAN_COLUMNS,
    Column,
    Result,
    Table,
    average_tokens,
    build_table,
    difficult_column,
    kind_columns,
    percent,
    percent_interval,
    plan_rows,
)


def accuracy_table(result: Result, label: str = "learnpruner") -> Table:
    """Build a line each for the unpruned model, the baselines from worst to best, and the plan itself as `label`."""
    rows = plan_rows(result, label)
    columns = [*PLAN_COLUMNS, *kind_columns(result["unpruned"]), Column("retention, 95 %", itemgetter("kept"))]
    return build_table([*columns, *difficult_column(rows)], rows)


def sweep_table(results: Sequence[Result]) -> Table:
    """Build a line a result, from the most tokens to the fewest: what each budget keeps, beside the best baseline."""

    def best(result: Result) -> tuple[str, str]:
        known = {name: one["retention"] for name, one in result["baselines"].items()}
        name = max(known, key=lambda name: known[name]["value"] or 0.0, default=None)
        return ("-", "-") if name is None else (name, percent_interval(known[name]))

    columns = [
        Column("prune_ratio", lambda row: f"{row['prune_ratio']:g}"),
        Column("tokens", average_tokens),
        Column("mean", lambda row: percent(row["accuracy"]["mean"])),
        Column("retention, 95 %", lambda row: percent_interval(row["retention"])),
        Column("best baseline", lambda row: best(row)[0]),
        Column("its retention", lambda row: best(row)[1]),
    ]
    return build_table(columns, sorted(results, key=lambda row: -row["tokens"]["averaged"]))
