"""The speed task: a plan's latency and closed-form cost beside the unpruned model's, at one budget or several."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from transformers import BatchFeature

from learnpruner.backbones import Backbone
from learnpruner.benchmarks.base import Benchmark
from learnpruner.benchmarks.prompting import encode_prompts
from learnpruner.core.budget import check_ratio
from learnpruner.evaluation import table_format
from learnpruner.evaluation.results import UNPRUNED, EvaluationResult
from learnpruner.evaluation.task import TaskContext
from learnpruner.plan import Plan
from learnpruner.profiling.flops import prompt_cost
from learnpruner.profiling.measurement import MeasurementSettings, largest_fitting, on_gpu
from learnpruner.profiling.selection_latency import CLOCKS
from learnpruner.profiling.tables import cost_sentence, latency_table
from learnpruner.profiling.timed_task import TimedTask
from learnpruner.profiling.timing import time_plans
from learnpruner.utils.errors import UserError
from learnpruner.utils.provenance import machine

KEEP_ALL = "keep all"


@dataclass
class LatencyTask(TimedTask):
    """Time a plan against the unpruned model and against itself keeping all tokens, taking turns within one run.

    Args:
        dataset: where the prompts come from.
        batch_sizes, new_tokens, warmup, repeats: see `MeasurementSettings`.
        clock: "cpu" is this process's own time, for a busy machine and one thread.
        keep_all: whether the plan keeping all tokens takes part; it shows what the engine itself costs.
        method, prune_ratios: config of conf/pruner and its budgets, for random weights without a plan.
    """

    dataset: Benchmark
    batch_sizes: Sequence[int | str] | None = None
    new_tokens: Sequence[int] | None = None
    warmup: int | None = None
    repeats: int | None = None
    clock: str = "wall"
    keep_all: bool = True
    method: str = "learnpruner"
    prune_ratios: Sequence[float] = (0.2222, 0.1111, 0.0556)
    baselines: Mapping[str, str] = field(default_factory=dict)
    name: str = "speed"

    def __post_init__(self) -> None:
        if self.clock not in CLOCKS:
            raise UserError(f"benchmark.clock is {self.clock!r}; it must be one of {', '.join(CLOCKS)}.")
        self.amount = MeasurementSettings(self.batch_sizes, self.new_tokens, self.warmup, self.repeats)

    def run(self, context: TaskContext) -> tuple[Path, str]:
        """Write results.json (milliseconds, speed-ups, closed-form cost); return it and the table to print."""
        backbone, plan, folder = context.backbone, context.plan, context.folder
        if plan is None:
            raise UserError("benchmark=speed compares a plan with the unpruned model: give plan=PATH or pruner=NAME.")
        if self.clock == "cpu" and on_gpu(backbone.model):
            raise UserError("benchmark.clock=cpu tells nothing of a GPU's time; use wall.")
        amount, config = self.amount.or_usual(backbone.model), backbone.model.config
        pruned = rebudgeted_plans(plan, context)
        beside = {KEEP_ALL: with_budget(plan, 1.0)} if self.keep_all else {}
        batches = self.batches(backbone, {UNPRUNED: None, **beside, **pruned}, amount)
        text, family, width = self.text(backbone), backbone.family, backbone.model.dtype.itemsize
        measured: dict[str, Any] = {
            "visual_tokens": {name: one.tokens(family.tokens, family.layers) for name, one in pruned.items()},
            **machine(backbone.model),
            "new_tokens": list(amount.new_tokens or ()),
            "clock": self.clock,
            "warmup": amount.warmup,
            "repeats": amount.repeats,
            "batches": batches,
            "cost": {name: prompt_cost(config, one, text, width) for name, one in pruned.items()},
        }
        about = EvaluationResult(context.source, backbone.name, self.name, measured)
        path, result = about.write(folder / "results.json")
        table = latency_table(result)
        (folder / "report.md").write_text(table_format.markdown_table(table) + "\n", encoding="utf-8")
        costs = [f"{name}: {cost_sentence(one)}" for name, one in result["cost"].items()]
        return path, "\n".join([table_format.text_table(table), "", *costs])

    def batches(
        self, backbone: Backbone, plans: Mapping[str, Plan | None], amount: MeasurementSettings
    ) -> list[dict[str, Any]]:
        """Measure each batch size."""
        sizes, lengths = amount.batch_sizes or (), amount.new_tokens or ()

        def turns(size: int, warmup: int = 0, repeats: int = 1) -> dict[str, dict[str, float]]:
            inputs = self.prompts(backbone, size)
            return time_plans(backbone.model, plans, inputs, lengths, warmup, repeats, CLOCKS[self.clock])

        most = max([1, *(size for size in sizes if isinstance(size, int))])
        found: dict[int, dict[str, dict[str, float]]] = {}
        for asked in sizes:
            size = asked if isinstance(asked, int) else largest_fitting(turns, most)
            if size not in found:
                found[size] = turns(size, amount.warmup or 0, amount.repeats or 1)
        return [{"batch_size": size, "timings": timings} for size, timings in found.items()]

    def prompts(self, backbone: Backbone, size: int) -> BatchFeature:
        """Encode the first `size` prompts of the dataset, each with a picture of as many tokens as the family is quoted for."""
        examples = [self.dataset[i] for i in range(size)]
        pictures = [resize_to_quoted_size(one.image, backbone.family.quoted_side) for one in examples]
        return encode_prompts(backbone, pictures, [self.dataset.wording(one.question) for one in examples])

    def text(self, backbone: Backbone) -> int:
        """Count the text tokens of the first prompt."""
        inputs = self.prompts(backbone, 1)
        return int((~backbone.family.placeholders(inputs["input_ids"]) & inputs["attention_mask"].bool()).sum())


def with_budget(plan: Plan, ratio: float) -> Plan:
    """Copy a plan, its weights shared, to another budget."""
    other = copy.copy(plan)
    other.prune_ratio = check_ratio(ratio)
    return other


def resize_to_quoted_size(image: Any, side: int | None) -> Any:
    """Resize a picture to the size for which the family's token count is quoted; None leaves it as it is."""
    return image if side is None else image.resize((side, side))


def rebudgeted_plans(plan: Plan, context: TaskContext) -> dict[str, Plan]:
    """Copy the plan to each of its budgets, by name in the table."""
    plans = {context.label: plan}
    if len(context.budgets) > 1:
        plans = {f"{context.label} {ratio:g}": with_budget(plan, ratio) for ratio in context.budgets}
    return {name: one.prepare(context.backbone.family) for name, one in plans.items()}
