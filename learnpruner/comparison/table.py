"""The table of all methods at all budgets, made from the results (the contents of results.json) alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from operator import itemgetter
from pathlib import Path
from typing import Any

from learnpruner.comparison.method_runs import INFEASIBLE, OK, REFUSED, UNTRAINED
from learnpruner.comparison.published_order import agreement_lines
from learnpruner.evaluation.difficult import DIFFICULT_NOTE
from learnpruner.evaluation.downsampling import DOWNSAMPLING
from learnpruner.evaluation.reports import excluded_kinds
from learnpruner.evaluation.table_format import (
    Column,
    Table,
    build_table,
    decimal,
    difficult_column,
    display_name,
    kind_columns,
    markdown_table,
    percent,
    percent_interval,
    write_csv,
)

MethodResult = Mapping[str, Any]
MethodRow = Mapping[str, Any]
MAIN_RATIO = 0.055  # the overview's further columns are at the budget that is nearest to it
SELECTION = "selection, ms an image at 576 x 1024"


def ranked(rows: Sequence[MethodRow]) -> list[str]:
    """Rank the methods by retention at the smallest budget, best first; those that cannot have it follow by their next one."""
    methods = list(dict.fromkeys(row["method"] for row in rows))
    ratios = sorted({row["prune_ratio"] for row in rows})
    kept = {(row["method"], row["prune_ratio"]): (row["retention"] or {}).get("value") for row in rows}

    def place(method: str) -> tuple[Any, ...]:
        values = [kept.get((method, ratio)) for ratio in ratios]
        return tuple((value is None, -(value or 0.0)) for value in values) + (method,)

    return sorted(methods, key=place)


def name(row: MethodRow) -> str:
    """Name a method as the table calls it: a reconstruction says that it is one, and a plan what it adapts."""
    return display_name(f"{row['method']} (reconstruction)" if row["reconstruction"] else str(row["method"]), row)


def reason(row: MethodRow) -> str:
    """Word in a few words why a method has no figures at a budget."""
    if row["status"] == INFEASIBLE and row["smallest"] is not None:
        return f"infeasible, at least {row['smallest']:g}"
    return {INFEASIBLE: "infeasible", UNTRAINED: "not trained", REFUSED: "not on this backbone"}[row["status"]]


def main_ratio(ratios: Sequence[float]) -> float:
    """The budget that the overview's further columns, and a second benchmark, are at."""
    return min(ratios, key=lambda ratio: abs(ratio - MAIN_RATIO))


def shifted_column(result: MethodResult) -> list[Column]:
    """Retention on the second benchmark; no column without one."""
    if not result.get("shifted"):
        return []
    own = result["shifted"]["benchmark"]

    def cell(row: MethodRow) -> str:
        return percent_interval(row["shifted"]["retention"]) if row.get("shifted") else "-"

    return [Column(f"second {own}" if own == result["benchmark"] else own, cell)]


def overview(result: MethodResult) -> Table:
    """Build a line a method: its retention at every budget, from the most tokens to the fewest, and what choosing costs."""
    found = {(row["method"], row["prune_ratio"]): row for row in result["rows"]}
    ratios = sorted(result["prune_ratios"], reverse=True)

    def kept(ratio: float) -> Column:
        def cell(method: str) -> str:
            row = found[method, ratio]
            return percent_interval(row["retention"]) if row["status"] == OK else reason(row)

        return Column(f"{ratio:g}", cell)

    main = main_ratio(ratios)

    def at_main(column: Column) -> Column:
        return Column(f"{column.title} at {main:g}", lambda method: column.cell(found[method, main]))

    columns = [
        Column("retention, % [95 %]", lambda method: name(found[method, ratios[0]])),
        *map(kept, ratios),
        *map(at_main, difficult_column(row for (_, ratio), row in found.items() if ratio == main)),
        *map(at_main, shifted_column(result)),
        Column(SELECTION, lambda method: decimal(found[method, ratios[0]]["selection_ms"])),
    ]
    return build_table(columns, ranked(result["rows"]))


def budget(result: MethodResult, ratio: float) -> Table:
    """List all columns at one budget, the methods in the order of the overview behind the unpruned model."""
    kinds = kind_columns(result["unpruned"])
    rows = {row["method"]: row for row in result["rows"] if row["prune_ratio"] == ratio}
    difficult = difficult_column(rows.values())

    def tokens(title: str, key: str, form: str = "g") -> Column:
        return Column(title, lambda row: f"{row['tokens'][key]:{form}}")

    columns = [
        Column("method", name),
        *kinds,
        Column("retention, 95 %", lambda row: percent_interval(row["retention"])),
        *difficult,
        tokens("tokens entering", "entering"),
        tokens("averaged", "averaged", ".1f"),
        tokens("final", "final"),
        Column("prefill", lambda row: decimal(row["prefill_ratio"], 2, "x")),
        Column("FLOPs", lambda row: decimal(row["flops_ratio"], 2, "x")),
        Column("KV", lambda row: decimal(row["kv_ratio"], 2, "x")),
        Column(SELECTION, lambda row: decimal(row["selection_ms"])),
        Column("positions", itemgetter("positions")),
    ]
    whole = f"{result['tokens']:g}"
    accuracy = [kind.cell({"accuracy": result["unpruned"]}) for kind in kinds]
    kept = ["100.0"] * (1 + len(difficult))
    cells = [*build_table(columns, ()), ["unpruned", *accuracy, *kept, *[whole] * 3, *["1.00x"] * 3, "-", "-"]]
    for row in (rows[method] for method in ranked(result["rows"])):
        without = [name(row), reason(row), *["-"] * (len(columns) - 2)] if row["status"] != OK else None
        cells.append(without or [column.cell(row) for column in columns])
    return cells


def notes(result: MethodResult) -> list[str]:
    """Word what a reader must know to read the table rightly."""
    rows = result["rows"]
    lines = [
        "Retention is the mean over kinds of pruned / unpruned accuracy, with a 95 % interval from a paired bootstrap over "
        "scenes. Tokens are the visual tokens that enter the LLM, their average over its layers, and those left at its "
        "end. Prefill is measured in this run (the median over batches of the unpruned model's time over the plan's, in "
        "the LLM); FLOPs (to the first token, vision tower included, selection not) and KV are closed forms, x times fewer. "
        "Positions: whether kept tokens keep their RoPE positions or are renumbered, as the authors do.",
    ]
    lines += [sentence] if (sentence := excluded_kinds(result["unpruned"])) else []
    if any(row["reconstruction"] for row in rows):
        lines.append(
            "A reconstruction is a method of which only the abstract, or a part of the rules, was at hand: its gaps are filled "
            "by us (docs/methods.md)."
        )
    trained = {row["method"]: row["plan"] for row in rows if row["plan"] not in (None, row["method"])}
    lines += [
        f"{method} learns: {path}, given each budget without further training." for method, path in trained.items()
    ]
    missing = {row["method"]: row["fallback"] for row in rows if row["fallback"]}
    lines += [f"{method}: {text}." for method, text in missing.items()]
    if any(row["method"] == DOWNSAMPLING and row["status"] == OK for row in rows):
        lines.append(
            "downsampling is the unpruned model on the picture scaled down to at most as many tokens as the budget (arXiv "
            "2510.07143): what they are is in the columns. A tower of one size has its position embeddings interpolated. "
            + DIFFICULT_NOTE
        )
    if second := result.get("shifted"):
        lines.append(
            f"The second benchmark, {second['benchmark']} ({second['samples']} samples, at {second['prune_ratio']:g} alone): "
            f"retention against the unpruned model's own {percent(second['unpruned']['mean'])} % there."
        )
    told = {(row["method"], row["why"]) for row in rows if row["status"] in (UNTRAINED, REFUSED)}
    lines += [f"{method} has no figures: {why}" for method, why in sorted(told)]
    return lines + agreement_lines(result.get("published_order", ()))


def page(result: MethodResult, picture: str | None = None) -> str:
    """Word the page in Markdown: the overview, the picture, one table a budget, the notes."""
    hardware = result["hardware"]
    facts = (
        f"Backbone {result['backbone']}, {result['samples']} samples of {result['benchmark']}, {hardware['processor']} with "
        f"{hardware['threads']} threads, commit {result['commit'] or 'unknown'}."
    )
    parts = ["# Every method on the same questions", facts, markdown_table(overview(result))]
    parts += [f"![accuracy against tokens]({picture})"] if picture else []
    for ratio in sorted(result["prune_ratios"], reverse=True):
        tokens = round(ratio * result["tokens"])
        parts += [
            f"## prune_ratio {ratio:g}: {tokens} of {result['tokens']} tokens",
            markdown_table(budget(result, ratio)),
        ]
    return "\n\n".join([*parts, *notes(result)]) + "\n"


def write_method_csv(result: MethodResult, path: Path) -> Path:
    """Write a line a method and budget; fractions of 1 and plain numbers, empty where there is none."""
    kinds, ends = list(result["unpruned"]), ("value", "low", "high")
    places = ("entering", "averaged", "final")
    plain = (
        "prefill_ratio",
        "flops_ratio",
        "kv_ratio",
        "selection_ms",
        "positions",
        "reconstruction",
        "fallback",
        "adapts",
        "smallest",
        "why",
    )
    head = ["method", "prune_ratio", "plan", "status", *kinds, *(f"retention_{end}" for end in ends)]
    rows = []
    for row in result["rows"]:
        accuracy, kept, tokens = (row[key] or {} for key in ("accuracy", "retention", "tokens"))
        values = [row["method"], row["prune_ratio"], row["plan"], row["status"], *(accuracy.get(k) for k in kinds)]
        values += [kept.get(end) for end in ends] + [tokens.get(place) for place in places]
        values += [(row.get("difficult") or {}).get(end) for end in ("samples", *ends)]
        values += [((row.get("shifted") or {}).get("retention") or {}).get(end) for end in ends]
        rows.append(values + [row[key] for key in plain])
    head += [*(f"tokens_{place}" for place in places), *(f"difficult_{end}" for end in ("samples", *ends))]
    head += [f"shifted_{end}" for end in ends]
    return write_csv(path, [*head, *plain], rows)
