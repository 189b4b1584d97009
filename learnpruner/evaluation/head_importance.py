"""The heads task: how much each attention head matters to a ranking of visual tokens, measured once for a backbone.

A head's importance is what its absence costs: how much the loss on the right answers rises when the ranking goes on
without it, on data that no table is made of.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, cast

import torch
import torch.nn.functional as F
from lightning.fabric.utilities import move_data_to_device

from learnpruner.backbones import Backbone
from learnpruner.benchmarks.base import Benchmark
from learnpruner.core.budget import check_ratio
from learnpruner.core.pruner import Pruner
from learnpruner.data.collate import Batch, Collate
from learnpruner.data.sample import Sample
from learnpruner.engine.shared_vision import shared_vision
from learnpruner.evaluation.task import Task, TaskContext
from learnpruner.plan import Plan, Stage
from learnpruner.training.forward import student_forward
from learnpruner.utils.errors import UserError
from learnpruner.utils.io import write_json
from learnpruner.utils.privacy import hide_path_values
from learnpruner.utils.provenance import commit, versions
from learnpruner.utils.validation import check_int


class HeadRanking(Protocol):
    """A pruner that adds up heads by weights, one a head."""

    weights: Sequence[float] | None


@dataclass
class HeadImportanceTask(Task):
    """Measures the weights of a pruner that ranks at the LLM's input, and writes them into a file that it reads.

    dataset: images with questions and answers. ranking: the pruner, weights unset. prune_ratio: at which it is tried.
    limit: first examples of the dataset; higher is slower and surer. out: file of the weights, None for the run's own.
    """

    dataset: Benchmark
    ranking: HeadRanking
    prune_ratio: float = 0.2
    limit: int = 400
    batch_size: int = 25
    out: str | None = None
    baselines: Mapping[str, str] = field(default_factory=dict)
    name: str = "heads"

    def __post_init__(self) -> None:
        check_int("benchmark.limit", self.limit, 1)
        check_int("benchmark.batch_size", self.batch_size, 1)
        check_ratio(self.prune_ratio)

    def run(self, context: TaskContext) -> tuple[Path, str]:
        """Write the weights and the losses that they come from; return the file and a line for each head."""
        backbone, plan, folder = context.backbone, context.plan, context.folder
        if plan is not None:
            raise UserError(
                "benchmark=heads measures the heads of the pruner that it names itself: give plan=none, without pruner=."
            )
        count = backbone.family.language_model.config.num_attention_heads
        every, *without = self.losses(backbone, [None, *(uniform_without_head(head, count) for head in range(count))])
        weights = head_weights(every, without)
        result: dict[str, Any] = {
            "weights": weights,
            "loss": every,
            "without": without,
            "prune_ratio": self.prune_ratio,
            "examples": min(self.limit, len(self.dataset)),
            "benchmark": self.dataset.name,
            "backbone": backbone.name,
            "versions": versions(),
            "commit": commit(),
        }
        path = write_json(hide_path_values(result), folder / "results.json" if self.out is None else Path(self.out))
        lines = [
            f"head {head}: loss {loss:.4f} without it, {every:.4f} with all; weight {weight:.3f}"
            for head, (loss, weight) in enumerate(zip(without, weights, strict=True))
        ]
        return path, "\n".join(lines)

    @torch.inference_mode()
    def losses(self, backbone: Backbone, weights: Sequence[Sequence[float] | None]) -> list[float]:
        """Average the loss of an answer token under each choice of weights; the vision tower runs once a batch."""
        plan = Plan([Stage(cast(Pruner, self.ranking), 0)], self.prune_ratio).eval()
        totals, tokens, before = [0.0] * len(weights), 0, self.ranking.weights
        try:
            for batch in self._batches(backbone):
                with shared_vision(backbone.model):
                    for number, choice in enumerate(weights):
                        self.ranking.weights = choice
                        totals[number] += answer_loss_sum(backbone, plan, batch)
                tokens += len(batch.answers)
        finally:
            self.ranking.weights = before
        return [total / tokens for total in totals]

    def _batches(self, backbone: Backbone) -> Iterator[Batch]:
        collate, last = Collate(backbone.processor), min(self.limit, len(self.dataset))
        for start in range(0, last, self.batch_size):
            examples = [self.dataset[i] for i in range(start, min(start + self.batch_size, last))]
            samples = [
                Sample(one.image, [(self.dataset.wording(one.question), one.answer)], one.id)  # type: ignore[arg-type]
                for one in examples
            ]
            yield move_data_to_device(collate(samples), backbone.model.device)


def answer_loss_sum(backbone: Backbone, plan: Plan, batch: Batch) -> float:
    """Add up -log p of a batch's answer tokens under a plan, in nats."""
    with shared_vision(backbone.model, batch.image_index), plan.on(backbone.model) as engine:
        engine.query_rows(batch.prompt_mask)
        said = student_forward(backbone.model, batch)
    return float(F.cross_entropy(said.logits.float(), said.targets, reduction="sum"))


def uniform_without_head(head: int, count: int) -> list[float]:
    """Weigh all heads but one alike."""
    return [0.0 if number == head else 1.0 / max(1, count - 1) for number in range(count)]


def head_weights(every: float, without: Sequence[float]) -> list[float]:
    """Weigh heads in proportion to how much the loss rises without them, none below 0, summing to 1.

    All alike where no head is missed.

    Args:
        every: loss with all heads.
        without: loss without each of them.
    """
    rises = [max(0.0, loss - every) for loss in without]
    total = sum(rises)
    return [rise / total for rise in rises] if total else [1.0 / len(rises)] * len(rises)
