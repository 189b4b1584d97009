"""The accuracy task: a plan and its baselines on a benchmark, with the table, the report page and the picture."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from learnpruner.backbones import Backbone, family_of
from learnpruner.benchmarks.base import Benchmark
from learnpruner.evaluation import table_format
from learnpruner.evaluation.accuracy_tables import accuracy_table
from learnpruner.evaluation.answer_cache import AnswerCache
from learnpruner.evaluation.evaluator import evaluate
from learnpruner.evaluation.examples import run_examples
from learnpruner.evaluation.reports import drawn, retention_summary, write_report
from learnpruner.evaluation.results import UNPRUNED
from learnpruner.evaluation.task import Task, TaskContext
from learnpruner.plan import Plan
from learnpruner.utils.errors import UserError
from learnpruner.utils.validation import check_int


def chosen(baselines: Mapping[str, str], baselines_to_run: Sequence[str] | None) -> Mapping[str, str]:
    """Pick those of the baselines that `baselines_to_run` names; all for None."""
    if isinstance(baselines_to_run, str):
        raise UserError(
            f"benchmark.baselines_to_run is {baselines_to_run!r}; give a list: "
            f"benchmark.baselines_to_run=[{baselines_to_run}]."
        )
    unknown = set(baselines_to_run or ()) - set(baselines)
    if unknown:
        known = ", ".join(baselines)
        raise UserError(f"benchmark.baselines_to_run names {sorted(unknown)}; the baselines are {known}.")
    return baselines if baselines_to_run is None else {name: baselines[name] for name in baselines_to_run}


def check_resumed(folder: str) -> None:
    """Refuse a `resume` that is no folder."""
    if not Path(folder).is_dir():
        raise UserError(f"benchmark.resume={folder} is no folder; give the folder of the run to go on with.")


@dataclass
class AccuracyTask(Task):
    """Score a plan and its baselines on a benchmark against the unpruned model.

    limit: first samples of the dataset, None for all; higher is slower with a narrower interval.
    batch_size: rows answered together; part of the result, since other batches round differently.
    baselines: name in the table -> config in conf/pruner, for whoever builds the plans.
    baselines_to_run: which of them run, None for all. num_examples: in the picture.
    resume: the folder of an earlier run, whose finished answers are not asked for again; results go into the run's own.
    """

    dataset: Benchmark
    limit: int | None = 400
    batch_size: int = 25
    max_new_tokens: int = 6
    baselines: Mapping[str, str] = field(default_factory=dict)
    baselines_to_run: Sequence[str] | None = None
    num_examples: int = 6
    name: str = "scenes"
    resume: str | None = None

    def __post_init__(self) -> None:
        if self.limit is not None:
            check_int("benchmark.limit", self.limit, 1)
        check_int("benchmark.batch_size", self.batch_size, 1)
        check_int("benchmark.max_new_tokens", self.max_new_tokens, 1)
        check_int("benchmark.num_examples", self.num_examples, 0)
        self.baselines = chosen(self.baselines, self.baselines_to_run)
        if self.resume is not None:
            check_resumed(self.resume)

    def run(self, context: TaskContext) -> tuple[Path, str]:
        """Write answers/*.jsonl as answers come, then results.json, answers.csv, report.md and tokens.png.

        Returns:
            The file of the results, and the table to print.
        """
        backbone, plan, folder = context.backbone, context.plan, context.folder
        plans = dict(context.baselines) if plan is None else {**context.baselines, context.label: plan}
        cache = AnswerCache((folder if self.resume is None else Path(self.resume)) / "answers")
        found = evaluate(backbone, plans, self.dataset, self.limit, self.batch_size, self.max_new_tokens, cache)
        ratio, name = (1.0, UNPRUNED) if plan is None else (plan.prune_ratio, context.label)
        path, result = found.result(context.source if plan is not None else None, ratio, name).write(
            folder / "results.json"
        )
        found.write_answers(folder / "answers.csv")
        write_report(result, folder / "report.md", (), context.label)
        if plan is not None and self.num_examples:
            pictures = drawn(lambda: self.picture(backbone, plan, folder / "tokens.png"))
            write_report(result, folder / "report.md", pictures, context.label)
        return path, f"{table_format.text_table(accuracy_table(result, context.label))}\n\n{retention_summary(result)}"

    def picture(self, backbone: Backbone, plan: Plan, path: Path) -> Path:
        """Draw the first examples of the benchmark with the tokens kept."""
        from learnpruner.evaluation.plots import draw_looks

        parts = family_of(backbone.model)
        examples = [self.dataset[i] for i in range(min(self.num_examples, len(self.dataset)))]
        looks = run_examples(backbone, plan, examples, self.dataset, self.max_new_tokens)
        return draw_looks(looks, path, plan.describe(parts.tokens, parts.layers))
