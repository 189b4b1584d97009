"""The suite task: a plan on any of the field's benchmarks, with the papers' table and RelAcc over those that were run."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any

from learnpruner.benchmarks.public import PublicBenchmark
from learnpruner.evaluation import benchmark_tables, table_format
from learnpruner.evaluation.accuracy_task import check_resumed, chosen
from learnpruner.evaluation.answer_cache import AnswerCache
from learnpruner.evaluation.benchmark_scores import SuiteAnswers, suite_measurements
from learnpruner.evaluation.downsampling import Contestant
from learnpruner.evaluation.evaluator import Evaluator
from learnpruner.evaluation.results import UNPRUNED, EvaluationResult
from learnpruner.evaluation.task import Task, TaskContext
from learnpruner.utils.distributed import init_rank
from learnpruner.utils.errors import UserError
from learnpruner.utils.validation import check_int

_log = logging.getLogger(__name__)


@dataclass
class BenchmarkSuiteTask(Task):
    """Score a plan, and the unpruned model, on each benchmark.

    limit: first samples of each, None for all. batch_size: rows answered together; part of the result.
    baselines: name in the table -> config in conf/pruner; baselines_to_run: which of them run, None for all.
    outside: whether paths in the benchmarks' rows may lead out of their folders. reference: print the paper's rows too. resume: the folder of an earlier run, whose finished answers are kept.
    shard: "auto" shares the work under torchrun; "0/4" does a quarter of it.
    """

    datasets: Mapping[str, PublicBenchmark]
    limit: int | None = None
    batch_size: int = 8
    baselines: Mapping[str, str] = field(default_factory=dict)
    baselines_to_run: Sequence[str] | None = None
    reference: bool = False
    resume: str | None = None
    shard: str | None = "auto"
    outside: bool = False

    def __post_init__(self) -> None:
        for benchmark in self.datasets.values():
            benchmark.outside = self.outside
        if self.limit is not None:
            check_int("benchmark.limit", self.limit, 1)
        check_int("benchmark.batch_size", self.batch_size, 1)
        self.baselines = chosen(self.baselines, self.baselines_to_run)
        by_hand = self.shard not in (None, "auto")
        if by_hand and self.resume is None:
            raise UserError(f"benchmark.shard={self.shard} needs benchmark.resume=FOLDER, the same for all shards.")
        if self.resume is not None and not by_hand:
            check_resumed(self.resume)

    def run(self, context: TaskContext) -> tuple[Path, str]:
        """Write answers/*.jsonl, results.json and report.md; return the second and the table to print.

        Of joined processes only the first returns a text.
        """
        backbone, plan, folder = context.backbone, context.plan, context.folder
        rank = init_rank(self.shard)
        folder = rank.broadcast_folder(folder if self.resume is None else Path(self.resume))
        plans: dict[str, Contestant] = {UNPRUNED: None, **context.baselines}
        if plan is not None:
            plans[context.label] = plan
        evaluator = Evaluator(backbone, self.batch_size, cache=AnswerCache(folder / "answers", rank.index), rank=rank)
        for name, benchmark in self.datasets.items():
            evaluator.fill(plans, benchmark, self.limit, name)
        rank.wait()
        if rank.joined and rank.index:
            return folder / "answers", ""
        evaluator.cache.read()
        found = {name: evaluator.collect(plans, one, self.limit) for name, one in self.datasets.items()}
        if missing := self.missing(evaluator, found):
            return folder / "answers", (
                f"shard {self.shard} is done; {missing} answers of others are missing. When they are done, "
                f"the same command with benchmark.resume={folder} and no shard makes the table."
            )
        measured = suite_measurements(
            backbone, plans, self.datasets, found, UNPRUNED if plan is None else context.label
        )
        measured |= {"batch_size": self.batch_size, "image_aspect": backbone.image_aspect}
        about = EvaluationResult(
            None if plan is None else context.source, backbone.name, ", ".join(self.datasets), measured
        )
        set_aside(folder, about.to_dict())
        path, result = about.write(folder / "results.json")
        return path, self.report(result, folder, context.label)

    def missing(self, evaluator: Evaluator, found: SuiteAnswers) -> int:
        """Count the answers of other processes that are not there yet."""
        asked = {name: sum(map(len, evaluator.batches(one, self.limit))) for name, one in self.datasets.items()}
        return sum(asked[name] - len(answers) for name, plans in found.items() for answers in plans.values())

    def report(self, result: dict[str, Any], folder: Path, label: str) -> str:
        """Write report.md; return the table to print."""
        cells = benchmark_tables.benchmark_table(result, self.datasets, label, self.reference)
        notes = benchmark_tables.benchmark_notes(result, self.datasets, self.reference)
        page = [f"# {label} on {result['benchmark']}", table_format.markdown_table(cells), notes]
        (folder / "report.md").write_text("\n\n".join(page) + "\n", encoding="utf-8")
        return f"{table_format.text_table(cells)}\n\n{notes}"


def set_aside(folder: Path, result: Mapping[str, Any]) -> None:
    """Keep results of another plan, in the folder whose answers are used again, by another name: results_1.json, ..."""
    path, own = folder / "results.json", ("plan", "prune_ratio", "backbone", "benchmark", "batch_size")
    if not path.is_file():
        return
    earlier = json.loads(path.read_text(encoding="utf-8"))
    if all(earlier.get(key) == result.get(key) for key in own):
        return
    number = next(n for n in count(1) if not (folder / f"results_{n}.json").exists())
    for name in ("results.json", "report.md"):
        if (folder / name).is_file():
            (folder / name).replace(folder / f"{Path(name).stem}_{number}{Path(name).suffix}")
    _log.warning("%s were of another plan or other benchmarks; they are results_%d.json now", path, number)
