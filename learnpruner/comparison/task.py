"""The peers task: every method of conf/pruner, at several budgets, on one benchmark, in one table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch

from learnpruner.backbones import Backbone
from learnpruner.benchmarks.base import Benchmark
from learnpruner.comparison import table
from learnpruner.comparison.method_rows import costs, method_row
from learnpruner.comparison.method_runs import MethodGrid, MethodRun, check_average, tried
from learnpruner.comparison.published_order import agreement_lines, published_agreement
from learnpruner.core.budget_request import refuse_single_plan
from learnpruner.evaluation import table_format
from learnpruner.evaluation.answer_cache import AnswerCache, CallTiming
from learnpruner.evaluation.downsampling import Contestant, Downsampling
from learnpruner.evaluation.evaluator import Evaluator, outcomes_of
from learnpruner.evaluation.reports import drawn
from learnpruner.evaluation.results import UNPRUNED, BenchmarkOutcomes, EvaluationResult
from learnpruner.evaluation.task import PlanRequest, Task, TaskContext
from learnpruner.plan import Plan
from learnpruner.plan.pruner_configs import PrunerConfigs
from learnpruner.profiling import selection_latency
from learnpruner.profiling.timing import time_module_calls
from learnpruner.utils.errors import UserError
from learnpruner.utils.provenance import commit
from learnpruner.utils.validation import check_int


@dataclass
class ComparisonTask(Task):
    """Score every method at every budget against the unpruned model.

    limit: first samples of the dataset, None for all. batch_size: rows answered together; part of the result.
    prune_ratios: budgets where the caller names none. methods: names in conf/pruner and what else is searched, None for all.
    exports: method -> trained export; `export_pattern` with {method} filled in is where those of other methods lie. Each is given
    every budget; a method that learns and has no export gets no figures.
    positions: "original" or "compact" for all plans, None for what each config says.
    selection_repeats: choices timed for a method, at 576 x 1024; 0 times none. downsampling: a row for the unpruned model on
    pictures so small that they have no more tokens than the budget. shifted: a second benchmark, asked at the budget nearest
    to 0.055 alone, with a column of its own: what a method keeps where the data are others.
    """

    dataset: Benchmark
    limit: int | None = 500
    batch_size: int = 25
    max_new_tokens: int = 6
    prune_ratios: Sequence[float] = (0.5, 0.222, 0.111, 0.055, 0.028, 0.014)
    methods: Sequence[str] | None = None
    exports: Mapping[str, str] = field(default_factory=dict)
    export_pattern: str | None = None
    positions: Any = None
    selection_repeats: int = 7
    downsampling: bool = False
    shifted: Benchmark | None = None
    name: str = "peers"
    baselines: Mapping[str, str] = field(default_factory=dict)
    takes_plan: ClassVar[bool] = False  # an export that is named takes part under its folder's name
    default_plan: ClassVar[str] = "none"
    resumes_in_place: ClassVar[bool] = True  # its own folder holds its answers

    def __post_init__(self) -> None:
        if self.limit is not None:
            check_int("benchmark.limit", self.limit, 1)
        check_int("benchmark.batch_size", self.batch_size, 1)
        check_int("benchmark.max_new_tokens", self.max_new_tokens, 1)
        check_int("benchmark.selection_repeats", self.selection_repeats, 0)
        if isinstance(self.methods, str):
            raise UserError(f"benchmark.methods is {self.methods!r}; give a list: benchmark.methods=[{self.methods}].")
        if self.positions not in (None, "original", "compact"):
            raise UserError(f"benchmark.positions is {self.positions!r}; choose original, compact or null.")

    def grid(
        self, configs: PrunerConfigs, seed: int, exports: Mapping[str, str] | None = None, allow: Sequence[str] = ()
    ) -> MethodGrid:
        """Who takes part. configs: of all methods. exports: further ones, name in the table -> path. allow: as of `load`."""
        exports = {**self.exports, **(exports or {})}
        return MethodGrid(
            configs, self.methods, exports, self.export_pattern, self.positions, seed, tuple(allow), self.downsampling
        )

    def budgets_for(self, request: PlanRequest) -> list[float]:
        refuse_single_plan(request.pruner, request.prune_ratio)
        return request.asked_budgets or list(self.prune_ratios)

    def run(self, context: TaskContext) -> tuple[Path, str]:
        """Write results.json, peers.md, peers.csv, peers.png and answers.csv; return the first and the table to print.

        Answers are kept in answers/*.jsonl as they come: the same command with the same folder goes on where it stopped.
        """
        backbone, folder, ratios = context.backbone, context.folder, list(context.budgets)
        exports = {} if context.source in (None, "none") else {Path(str(context.source)).name: str(context.source)}
        parts, entered = backbone.family, self.grid(context.pruners, context.seed, exports, context.allow)
        entrants = tried(entered.entrants(ratios, backbone), backbone, self.dataset, self.first())
        for entrant in entrants:
            check_average(entrant, parts.tokens, parts.layers)
        plans = {one.row: one.plan for one in entrants if one.plan is not None}
        found, timings = self.answers(backbone, plans, folder)
        times = self.choices(entered, {one.method for one in entrants if one.plan is not None})
        text = round(float(np.mean([count for timing in timings[UNPRUNED] for count in timing.text])))
        rows = [
            method_row(one, found, timings, costs(backbone, one.plan, text), times.get(one.method, {}))
            for one in entrants
        ]
        shifted = self.on_shifted(backbone, entrants, table.main_ratio(ratios), folder)
        for one in rows:  # what could not be built at one budget is known from the others
            one["shifted"] = shifted["rows"].get((one["method"], one["prune_ratio"]))
            one["reconstruction"] = any(row["reconstruction"] for row in rows if row["method"] == one["method"])
        measured = {
            "samples": len(found.questions),
            "prune_ratios": ratios,
            "tokens": parts.tokens,
            "unpruned": found.accuracy(UNPRUNED),
            "shifted": shifted["about"],
            "rows": rows,
            "published_order": published_agreement(rows),
        }
        about = EvaluationResult(None, backbone.name, self.dataset.name, measured)
        path, result = about.write(folder / "results.json")
        found.write_answers(folder / "answers.csv")
        table.write_method_csv(result, folder / "peers.csv")
        pictures = drawn(lambda: picture_of(result, folder / "peers.png")) if plans else []
        picture = pictures[0].name if pictures else None
        (folder / "peers.md").write_text(table.page(result, picture), encoding="utf-8")
        below = agreement_lines(result["published_order"])
        return path, "\n".join([table_format.text_table(table.overview(result)), *([""] if below else []), *below])

    def first(self) -> int:
        """Count the samples of the first batch."""
        return min(self.batch_size, len(self.dataset), self.limit or len(self.dataset))

    def answers(
        self,
        backbone: Backbone,
        plans: Mapping[str, Plan | Downsampling],
        folder: Path,
        dataset: Benchmark | None = None,
    ) -> tuple[BenchmarkOutcomes, dict[str, list[CallTiming]]]:
        """Collect what every plan and the unpruned model answered, and how long each batch took them.

        Args:
            backbone: that answers.
            plans: by name.
            folder: of the run, which holds the answers.
            dataset: what is asked, None for the task's own.
        """
        dataset = dataset or self.dataset
        if (folder / "turns.jsonl").exists():
            raise UserError(
                f"{folder / 'turns.jsonl'} holds answers of an earlier version, which this one does not read; remove it, "
                "or start in another folder."
            )
        everyone: dict[str, Contestant] = {UNPRUNED: None, **plans}
        timer = partial(time_module_calls, backbone.family.language_model, torch.device(backbone.model.device))
        cache = AnswerCache(folder / "answers", about={"commit": commit()})
        evaluator = Evaluator(backbone, self.batch_size, self.max_new_tokens, cache, timer=timer)
        found = outcomes_of(backbone, everyone, dataset, evaluator.run(everyone, dataset, self.limit))
        return found, evaluator.timings(everyone, dataset, self.limit)

    def on_shifted(
        self, backbone: Backbone, entrants: Sequence[MethodRun], ratio: float, folder: Path
    ) -> dict[str, Any]:
        """Ask the second benchmark at one budget.

        Args:
            backbone: that answers.
            entrants: of all budgets.
            ratio: the budget.
            folder: of the run.

        Returns:
            What results.json says "about" it, None without one, and of "rows": (method, prune_ratio) -> accuracy and
            retention there.
        """
        if self.shifted is None:
            return {"about": None, "rows": {}}
        asked = [one for one in entrants if one.plan is not None and one.prune_ratio == ratio]
        found, _ = self.answers(backbone, {one.row: one.plan for one in asked if one.plan}, folder, self.shifted)
        rows = {one: found.row(one.row) for one in asked}
        return {
            "about": {
                "benchmark": self.shifted.name,
                "settings": self.shifted.arguments(),
                "prune_ratio": ratio,
                "samples": len(found.questions),
                "unpruned": found.accuracy(UNPRUNED),
            },
            "rows": {(one.method, ratio): {key: rows[one][key] for key in ("accuracy", "retention")} for one in asked},
        }

    def choices(self, entered: MethodGrid, methods: set[str]) -> dict[str, dict[str, Any]]:
        """Time each method's choice, in milliseconds; exports without a config are left out."""
        if not self.selection_repeats:
            return {}
        files = {method: path for method, path in entered.configs.files().items() if method in methods}
        return selection_latency.time_selections(files, repeats=self.selection_repeats)


def picture_of(result: Mapping[str, Any], path: Path) -> Path:
    """Draw the curves of the methods, from the contents of results.json."""
    from learnpruner.comparison.plot import draw_peers

    return draw_peers(result, path)
