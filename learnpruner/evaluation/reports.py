"""The table, the sentence and the page of a run, made from its results (the contents of results.json) alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from operator import itemgetter
from pathlib import Path

from learnpruner.evaluation.tables import (
    PLAN_COLUMNS,
    Column,
    Result,
    Table,
    average_tokens,
    build_table,
    kind_columns,
    markdown_table,
    percent,
    percent_interval,
    plan_rows,
)


def accuracy_table(result: Result, label: str = "learnpruner") -> Table:
    """A line each for the unpruned model, the baselines from worst to best, and the plan itself as `label`."""
    columns = [*PLAN_COLUMNS, *kind_columns(result["unpruned"]), Column("retention, 95 %", itemgetter("kept"))]
    return build_table(columns, plan_rows(result, label))


def excluded_kinds(unpruned: Mapping[str, float | None]) -> str:
    """A sentence on the kinds that retention leaves out, "" where it counts all. unpruned: accuracy by kind, and their mean."""
    kinds = [kind for kind, accuracy in unpruned.items() if accuracy == 0 and kind != "mean"]
    return f"Retention leaves out {', '.join(kinds)}, where the unpruned model has nothing right." if kinds else ""


def retention_summary(result: Result) -> str:
    """What the plan keeps, how far that is from the best baseline, and over which kinds."""
    return f"{retention_sentence(result)} {excluded_kinds(result['unpruned'])}".rstrip()


def retention_sentence(result: Result) -> str:
    """One sentence on what the plan keeps, and how far that is from the best baseline."""
    own = result["retention"]["value"]
    if result["plan"] is None or own is None:
        mean = percent(result["unpruned"]["mean"])
        return f"Unpruned: mean accuracy {mean} % on {result['samples']} samples of {result['benchmark']}."
    tokens = result["tokens"]["averaged"]
    sentence = f"Keeps {percent(own)} % of the unpruned score with {tokens:.1f} visual tokens on average"
    known = {name: one["retention"]["value"] for name, one in result["baselines"].items()}
    best = max((name for name in known if known[name] is not None), key=lambda name: known[name], default=None)
    if best is None:
        return sentence + "."
    points = 100 * (own - known[best])
    return f"{sentence}; {abs(points):.1f} points {'above' if points >= 0 else 'below'} the best baseline ({best})."


def sweep_table(results: Sequence[Result]) -> Table:
    """One line a result, from the most tokens to the fewest: what each budget keeps, beside the best baseline."""

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


def write_report(result: Result, path: Path, pictures: Sequence[Path] = (), label: str = "learnpruner") -> Path:
    """The report page in Markdown: what was measured, the table, the pictures."""
    head = f"# {label} on {result['benchmark']}\n\n{retention_summary(result)}"
    facts = f"Backbone {result['backbone']}, {result['samples']} samples, commit {result['commit'] or 'unknown'}."
    images = [f"![{picture.stem}]({picture.name})" for picture in pictures]
    path.write_text(
        "\n\n".join([head, facts, markdown_table(accuracy_table(result, label)), *images]) + "\n", encoding="utf-8"
    )
    return path
