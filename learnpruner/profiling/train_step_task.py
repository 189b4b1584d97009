"""The train_step task: time and memory of one training step, beside one forward pass of the unpruned model."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

import lightning as L
import torch
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks
from torch.utils.data import DataLoader

from learnpruner.backbones import Backbone
from learnpruner.core.relaxations import Relaxation
from learnpruner.data.collate import Batch, Collate
from learnpruner.data.sample import Sample, Source
from learnpruner.evaluation import table_format
from learnpruner.evaluation.results import EvaluationResult
from learnpruner.evaluation.task import TaskContext
from learnpruner.plan import Plan
from learnpruner.profiling.latency_task import resize_to_quoted_size
from learnpruner.profiling.measurement import is_large, on_gpu
from learnpruner.profiling.tables import train_step_table
from learnpruner.profiling.timed_task import TimedTask
from learnpruner.profiling.timing import synchronized_ms
from learnpruner.training.choose_module import make_plan_module
from learnpruner.training.forward import student_forward
from learnpruner.training.losses import default_loss
from learnpruner.training.trainer import make_trainer
from learnpruner.utils.errors import UserError
from learnpruner.utils.provenance import machine
from learnpruner.utils.validation import check_int

StepTimes = dict[str, dict[str, float]]


class StepTimer(L.Callback):
    """Before each step one forward pass of the unpruned model on its batch, without gradient; times and memory of both."""

    def __init__(self) -> None:
        self.rounds: list[StepTimes] = []
        self.step: Callable[[], dict[str, float]] = dict
        self.saved = SavedTensorBytes()

    def on_train_batch_start(self, trainer: L.Trainer, module: Any, batch: Batch, number: int) -> None:
        forward = start_timer(module.device)
        with torch.no_grad(), trainer.precision_plugin.forward_context():
            student_forward(module.backbone.model, batch)
        self.rounds.append({"forward": forward()})
        self.saved = SavedTensorBytes(module.backbone.model.parameters())
        self.step = start_timer(module.device)
        self.saved.__enter__()

    def on_before_backward(self, *rest: Any) -> None:
        self.saved.__exit__(None, None, None)

    def on_train_batch_end(self, *rest: Any) -> None:
        self.rounds[-1]["step"] = self.step() | {"saved_bytes": float(self.saved.bytes)}


class SavedTensorBytes(saved_tensors_hooks):
    """Bytes that autograd keeps for the backward pass, each storage once, weights not counted."""

    def __init__(self, weights: Iterable[Tensor] = ()) -> None:
        self.known = {weight.untyped_storage().data_ptr() for weight in weights}
        self.bytes = 0
        super().__init__(self._note, lambda tensor: tensor)

    def _note(self, tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in self.known:  # what is kept stays where it is until the backward pass
            self.known.add(storage.data_ptr())
            self.bytes += storage.nbytes()
        return tensor


def start_timer(device: torch.device) -> Callable[[], dict[str, float]]:
    """Start a clock; its call tells milliseconds since, and the most memory held meanwhile on a GPU, 0 on a CPU."""
    gpu = device.type == "cuda"
    if gpu:
        torch.cuda.reset_peak_memory_stats(device)
    start = synchronized_ms(device)
    return lambda: {
        "ms": synchronized_ms(device) - start,
        "peak_bytes": float(torch.cuda.max_memory_allocated(device)) if gpu else 0.0,
    }


@dataclass
class TrainStepTask(TimedTask):
    """Train a plan for some steps as train.py does, on one batch of images with one question each, in masked mode.

    Args:
        images: of the batch; None is 8, or 1 for a large model on a CPU.
        warmup, repeats: steps that do not and do count.
        grad_tokens_per_image: dropped tokens an image that receive gradient, None for all.
        method, prune_ratios: config of conf/pruner and its budget, for random weights without a plan.
    """

    source: Source
    relaxation: Relaxation
    optimizer: Callable[..., Any]
    images: int | None = None
    warmup: int | None = None
    repeats: int | None = None
    grad_tokens_per_image: int | None = 32
    method: str = "learnpruner"
    prune_ratios: Sequence[float] = (0.0556,)
    baselines: Mapping[str, str] = field(default_factory=dict)
    name: str = "train_step"

    def __post_init__(self) -> None:
        for name, low in (("images", 1), ("warmup", 0), ("repeats", 1), ("grad_tokens_per_image", 0)):
            if getattr(self, name) is not None:
                check_int(f"benchmark.{name}", getattr(self, name), low)

    def run(self, context: TaskContext) -> tuple[Path, str]:
        """Write results.json (milliseconds, bytes, ratios); return it and the table to print."""
        backbone, plan, folder = context.backbone, context.plan, context.folder
        if plan is None:
            raise UserError("benchmark=train_step trains a plan: give plan=PATH or pruner=NAME.")
        if len(context.budgets) > 1:
            raise UserError(f"prune_ratios={list(context.budgets)} is refused: benchmark=train_step takes one budget.")
        slow = is_large(backbone.model) and not on_gpu(backbone.model)
        images = self.images or (1 if slow else 8)
        warmup = (0 if slow else 2) if self.warmup is None else self.warmup
        repeats = self.repeats or (1 if slow else 5)
        batch = self.batch(backbone, images)
        rounds = self.steps(backbone, plan, batch, warmup + repeats, folder)[warmup:]
        medians = {part: median_of_fields([one[part] for one in rounds]) for part in ("forward", "step")}
        family = backbone.family
        measured: dict[str, Any] = {
            "prune_ratio": plan.prune_ratio,
            "visual_tokens": plan.tokens(family.tokens, family.layers),
            **machine(backbone.model),
            "images": images,
            "positions": list(batch.input_ids.shape),
            "pool": self.grad_tokens_per_image,
            "warmup": warmup,
            "repeats": repeats,
            **medians,
            "ratio": medians["step"]["ms"] / medians["forward"]["ms"],
        }
        about = EvaluationResult(context.source, backbone.name, self.name, measured)
        path, result = about.write(folder / "results.json")
        return path, table_format.text_table(train_step_table(result))

    def batch(self, backbone: Backbone, images: int) -> Batch:
        """Collate the first samples of the source, with pictures of as many tokens as the family is quoted for."""
        samples = [self.source.sample(i) for i in range(images)]
        side = backbone.family.quoted_side
        return Collate(backbone.processor)(
            [Sample(resize_to_quoted_size(s.image, side), s.turns, s.id) for s in samples]
        )

    def steps(self, backbone: Backbone, plan: Plan, batch: Batch, count: int, folder: Path) -> list[StepTimes]:
        """Train so many steps on one batch, and tell the times of each."""
        module = make_plan_module(
            backbone,
            plan,
            self.relaxation,
            default_loss(),
            self.optimizer,
            grad_tokens_per_image=self.grad_tokens_per_image,
        )
        accelerator = "gpu" if on_gpu(backbone.model) else "cpu"
        settings = {"accelerator": accelerator, "max_steps": count}
        trainer = make_trainer(settings, [], [], folder, backbone.model.dtype)
        clock = StepTimer()
        trainer.callbacks.append(clock)  # type: ignore[attr-defined]
        trainer.fit(module, DataLoader([batch] * count, batch_size=None))  # type: ignore[arg-type]  # a list is a dataset
        return clock.rounds


def median_of_fields(found: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Take the median of each field."""
    return {key: float(median(one[key] for one in found)) for key in found[0]}
