"""Exported plans side by side on the same scenes, with paired intervals for what each has over the first at its budget.

python -m learnpruner.comparison.compare_exports checkpoints/A checkpoints/B --split test --limit 1000 --out logs/compare
"""

from __future__ import annotations

import argparse
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from operator import itemgetter
from pathlib import Path
from typing import Any

import numpy as np

import learnpruner
from learnpruner.backbones import Backbone, load_backbone
from learnpruner.benchmarks.scenes import ScenesBenchmark
from learnpruner.comparison.task import ComparisonTask
from learnpruner.evaluation.results import UNPRUNED, BenchmarkOutcomes, EvaluationResult
from learnpruner.evaluation.statistics import retention_gain
from learnpruner.evaluation.table_format import (
    PLAN_COLUMNS,
    Column,
    Table,
    average_tokens,
    build_table,
    display_name,
    kind_columns,
    percent_interval,
    text_table,
)
from learnpruner.plan import Plan
from learnpruner.utils.argtypes import exit_on_bad_input, positive_int


def firsts(plans: Mapping[str, Plan]) -> dict[str, str]:
    """Find for each plan the first that was named at its budget."""
    first: dict[float, str] = {}
    for name, plan in plans.items():
        first.setdefault(plan.prune_ratio, name)
    return {name: first[plan.prune_ratio] for name, plan in plans.items()}


def export_rows(found: BenchmarkOutcomes, plans: Mapping[str, Plan]) -> dict[str, dict[str, Any]]:
    """Measure accuracy, retention, tokens and what is adapted, and the gain over the first plan at the same budget."""
    scenes = np.array([question.scene for question in found.questions])
    scores = {name: outcome.scores for name, outcome in found.outcomes.items()}
    result = {}
    for name, first in firsts(plans).items():
        over = retention_gain(scores[name], scores[first], scores[UNPRUNED], found.kind, scenes)
        result[name] = {**found.row(name), "prune_ratio": plans[name].prune_ratio, "over": first, "gain": asdict(over)}
    return result


def table(result: Mapping[str, Any]) -> Table:
    """Build a line each for the unpruned model and the plans, in the order in which they were named."""
    rows = [{"name": UNPRUNED, "tokens": "all", "accuracy": result["unpruned"], "kept": "100.0", "more": "-"}]
    for name, row in result["plans"].items():
        more = "-" if row["over"] == name else percent_interval(row["gain"])
        kept = {"accuracy": row["accuracy"], "kept": percent_interval(row["retention"]), "more": more}
        rows.append({"name": display_name(name, row), "tokens": average_tokens(row), **kept})
    kept_columns = [Column("retention, 95 %", itemgetter("kept")), Column("over the first, points", itemgetter("more"))]
    return build_table([*PLAN_COLUMNS, *kind_columns(result["unpruned"]), *kept_columns], rows)


def compare(
    backbone: Backbone, plans: Mapping[str, Plan], split: str, limit: int, batch_size: int, folder: Path
) -> EvaluationResult:
    """Compare plans on the same scenes. Answers are kept as they come: a run that was stopped goes on there.

    Args:
        backbone: that answers.
        plans: by name in the table.
        split: of the scenes.
        limit: scenes, from the first.
        batch_size: rows that are answered together.
        folder: where the answers are kept.

    Returns:
        What results.json says.
    """
    folder.mkdir(parents=True, exist_ok=True)
    found, _ = ComparisonTask(ScenesBenchmark(split), limit, batch_size).answers(backbone, plans, folder)
    measured = {
        "samples": len(found.questions),
        "unpruned": found.accuracy(UNPRUNED),
        "plans": export_rows(found, plans),
    }
    return EvaluationResult(None, backbone.name, f"scenes, {split}", measured)


def export_label(path: Path) -> str:
    """An export's name in the table: of a run's own folder the run's, of a sweep what its job has otherwise than the others."""
    if path.name != "export":
        return path.name
    run = path.resolve().parent
    try:
        jobs = json.loads((run.parent / "sweep.json").read_text())
        varied: dict[str, str] = next((job["settings"] for job in jobs if job["folder"] == run.name), {})
    except (OSError, ValueError, KeyError, TypeError):  # no sweep's, or one that was not finished
        varied = {}
    return ", ".join(f"{key}={value}" for key, value in varied.items()) or run.name


def main(arguments: Sequence[str] | None = None) -> None:
    """Compare the exports that the command line names."""
    parser = argparse.ArgumentParser(description="Compare exported plans on the same scenes.")
    parser.add_argument("plans", nargs="+", type=Path, help="folders; each is compared with the first of its budget")
    parser.add_argument("--backbone", default="checkpoints/nano-llava")
    parser.add_argument("--split", choices=("validation", "test"), default="test")
    parser.add_argument("--limit", type=positive_int, default=1000)
    parser.add_argument("--batch-size", type=positive_int, default=25)
    parser.add_argument("--out", type=Path, default=Path("logs/compare"), help="folder of results.json and all answers")
    parser.add_argument("--allow", nargs="*", default=(), help="packages beside this one whose pruners plans may have")
    options = parser.parse_args(arguments)
    labels = [export_label(path) for path in options.plans]
    twice = [name for name, count in Counter(labels).items() if count > 1]
    if twice:
        parser.error(f"two plans are named {twice[0]}, which is the table's name for them; copy one to another folder.")
    with exit_on_bad_input(parser):
        backbone = load_backbone(options.backbone)
        plans = {
            label: learnpruner.load(path, allow=options.allow).prepare(backbone.family)
            for label, path in zip(labels, options.plans, strict=True)
        }
    result = compare(backbone, plans, options.split, options.limit, options.batch_size, options.out / options.split)
    path, told = result.write(options.out / options.split / "results.json")
    print(f"{text_table(table(told))}\n\nresults: {path}")


if __name__ == "__main__":
    main()
