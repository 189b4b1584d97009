"""The speed task: a plan's latency and closed-form cost beside the unpruned model's."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from learnpruner import report
from learnpruner.accuracy import whole
from learnpruner.backbones import Backbone
from learnpruner.benchmarks.base import Benchmark
from learnpruner.cost import closed_form
from learnpruner.evaluate import encode
from learnpruner.export import versions
from learnpruner.latency import measure
from learnpruner.plan import Plan
from learnpruner.results import UNPRUNED, command, commit, write_json
from learnpruner.selection_cost import processor


@dataclass
class Speed:
    """Time a plan against the unpruned model and against itself keeping all tokens, taking turns within one run.

    dataset: where the prompts come from. batch_sizes: prompts at once, one measurement each. new_tokens: generated.
    warmup, repeats: rounds that do not and do count.
    """

    dataset: Benchmark
    batch_sizes: tuple[int, ...] = (1, 8)
    new_tokens: int = 8
    warmup: int = 2
    repeats: int = 7
    baselines: Mapping[str, str] = field(default_factory=dict)
    name: str = "speed"

    def __post_init__(self) -> None:
        for size in self.batch_sizes:
            whole("batch_sizes", size, 1)
        whole("new_tokens", self.new_tokens, 2)
        whole("warmup", self.warmup, 0)
        whole("repeats", self.repeats, 1)

    def run(
        self,
        backbone: Backbone,
        plan: Plan | None,
        folder: Path,
        source: str | None = None,
        baselines: Mapping[str, Plan] | None = None,
        label: str = "learnpruner",
    ) -> tuple[Path, str]:
        """Writes results.json (milliseconds, speed-ups, closed-form cost); returns it and the table to print."""
        if plan is None:
            raise ValueError("benchmark=speed compares a plan with the unpruned model: give plan=PATH or pruner=NAME.")
        plans = {UNPRUNED: None, "keep all": Plan(list(plan.stages), 1.0, plan.positions), label: plan}
        model, batches, text = backbone.model, [], 0
        for size in self.batch_sizes:
            examples = [self.dataset[i] for i in range(size)]
            questions = [self.dataset.wording(one.question) for one in examples]
            inputs = encode(backbone, [counted(one.image, backbone.adapter.side) for one in examples], questions)
            text = int(
                (~backbone.adapter.placeholders(inputs["input_ids"]) & inputs["attention_mask"].bool()).sum(1).max()
            )
            timings = measure(model, plans, inputs, self.new_tokens, self.warmup, self.repeats)
            batches.append({"batch_size": size, "timings": timings})
        result: dict[str, Any] = {
            "plan": source,
            "backbone": backbone.name,
            "benchmark": self.name,
            "prune_ratio": plan.prune_ratio,
            "device": device_name(model.device),
            "threads": torch.get_num_threads(),
            "dtype": str(model.dtype).removeprefix("torch."),
            "new_tokens": self.new_tokens,
            "repeats": self.repeats,
            "batches": batches,
            "cost": closed_form(model.config, plan, text, model.dtype.itemsize),
            "versions": versions(),
            "command": command(),
            "commit": commit(),
        }
        path = write_json(result, folder / "results.json")
        table = report.text(report.speed(result))
        (folder / "report.md").write_text(report.markdown(report.speed(result)) + "\n", encoding="utf-8")
        return path, f"{table}\n\n{report.cost(result['cost'])}"


def counted(image: Any, side: int | None) -> Any:
    """A picture in the size for which the family's token count is quoted; None leaves it as it is."""
    return image if side is None else image.resize((side, side))


def device_name(device: torch.device) -> str:
    """The GPU's name, or the CPU's."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else processor()
