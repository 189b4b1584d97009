"""One training step: the unpruned model answers, the pruned one answers, the loss compares; only pruner weights learn.

R rows (one question each), I images, N visual tokens.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from learnpruner.backbones.loading import Backbone
from learnpruner.core.budget import mean_tokens_per_layer
from learnpruner.core.relaxations import Relaxation
from learnpruner.data.collate import Batch
from learnpruner.engine.prefill_trace import PrefillTrace
from learnpruner.engine.shared_vision import shared_vision
from learnpruner.plan import Plan
from learnpruner.training.forward import shared_prefix_forward, student_forward, teacher_forward
from learnpruner.training.losses import DistillationLoss
from learnpruner.training.outputs import AnswerLogits, StageGate, StepOutputs
from learnpruner.training.plan_module import PlanLitModule, check_trainable
from learnpruner.utils.errors import UserError


class PrunerLitModule(PlanLitModule):
    """Distils the unpruned model into its pruned self: `teacher_forward`, `student_forward`, loss.

    Args:
        backbone: frozen; the unpruned model is never adapted.
        plan: its parameters learn, those of its adaptation at the learning rate `adapter_lr`.
        relaxation: from scores to a gate with gradient.
        loss: terms and their weights.
        optimizer: partial that takes the parameters.
        scheduler: partial that takes the optimizer.
        grad_tokens_per_image: dropped tokens an image that receive gradient in a step (None: all); fewer is faster.
        seed: randomness of a step is a function of it and of the step.
        config: settings of the run, which its checkpoints keep.
        adapter_lr: None is the optimizer's own.
    """

    def __init__(
        self,
        backbone: Backbone,
        plan: Plan,
        relaxation: Relaxation,
        loss: DistillationLoss,
        optimizer: Callable[[list[Any]], Optimizer],
        scheduler: Callable[..., Any] | None = None,
        grad_tokens_per_image: int | None = None,
        seed: int = 0,
        config: dict[str, Any] | None = None,
        adapter_lr: float | None = None,
    ) -> None:
        super().__init__(backbone, plan, optimizer, scheduler, seed, config, adapter_lr)
        self.loss, self.grad_tokens_per_image = loss, grad_tokens_per_image
        self.relaxation, self.learners = relaxation, attach_relaxation(plan, relaxation)
        self.train()

    def trained_parameters(self) -> list[Any]:
        return param_groups(self.plan, self.adapter_lr, [p for p in self.loss.parameters() if p.requires_grad])

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        self.anneal()
        with self.step_randomness(), shared_vision(self.backbone.model):
            teacher_out = self.teacher_forward(batch) if self.loss.needs_teacher else None
            student_out, record = self.student_forward(batch)
        loss, parts = self.loss(StepOutputs(student_out, teacher_out, self.stage_gates(record, batch)))
        for selection in record.selections:
            if selection.losses:
                loss = loss + torch.stack(list(selection.losses.values())).sum()
                parts |= selection.losses
        if not self._keeps_all:
            self.log_dict({"tokens": realised_tokens(record)}, prog_bar=True, batch_size=1)
        return self.log_loss(loss, parts)

    def teacher_forward(self, batch: Batch) -> AnswerLogits:
        """Run the unpruned model on a batch, without gradient."""
        return teacher_forward(self.backbone.model, batch, self.loss.needs_hidden)

    def student_forward(self, batch: Batch) -> tuple[AnswerLogits, PrefillTrace]:
        """Run the pruned model on a batch; return its answers, and what its stages decided."""
        model, plan, hidden = self.backbone.model, self.plan, self.loss.needs_hidden
        if plan.positions == "original" and self._keeps_all:
            with plan.on(model) as engine:
                student_out = shared_prefix_forward(model, batch, hidden)
        else:
            pool = self.grad_tokens_per_image
            with shared_vision(model, batch.image_index), plan.on(model, mode="masked", pool=pool) as engine:
                engine.query_rows(batch.prompt_mask)
                student_out = student_forward(model, batch, hidden)
        assert engine.record is not None
        return student_out, engine.record

    def stage_gates(self, record: PrefillTrace, batch: Batch) -> list[StageGate]:
        """Read the gates of the stages that have one.

        Images may differ in size: gates are 0 on what fills up the smaller ones, and each has a budget of its own.

        Args:
            record: what the student's stages decided, one row a question.
            batch: whose images they are.
        """
        gated = [i for i, selection in enumerate(record.selections) if selection.gate is not None]
        if not gated:
            return []
        sizes, layers = record.sizes[batch.first_rows], self.backbone.family.layers
        counts = sizes.new_tensor([self.plan.counts(n, layers, least=True) for n in sizes.tolist()])
        return [
            StageGate(
                record.selections[i].gate[batch.first_rows],  # type: ignore[index]  # one that has a gate
                counts[:, i] / sizes,
                sizes,
                self.relaxation.meets_budget or i not in self.learners,
            )
            for i in gated
        ]

    @property
    def _keeps_all(self) -> bool:
        return all(stage.pruner.keeps_all for stage in self.plan.stages)


def realised_tokens(record: PrefillTrace) -> Tensor:
    """Average the visual tokens of an image over the language model's layers and the batch: a scalar."""
    kept = [torch.ones_like(s.index) if s.valid is None else s.valid for s in record.selections]
    counts = [one.float().sum(1).mean() for one in kept]
    return torch.as_tensor(mean_tokens_per_layer(counts, record.cuts, record.sizes.float().mean(), record.layers))  # type: ignore[arg-type]  # tensors add like numbers


def param_groups(plan: Plan, adapter_lr: float | None, others: list[Any] | None = None) -> list[Any]:
    """List what an optimizer takes.

    Args:
        plan: its pruners' weights, and those of its adaptation.
        adapter_lr: learning rate of the adaptation, None for the optimizer's own.
        others: weights beside the pruners', such as a loss term's.
    """
    pruners = [p for p in plan.stages.parameters() if p.requires_grad] + (others or [])  # type: ignore[attr-defined]  # a ModuleList
    adapted = [p for p in plan.adaptation.parameters() if p.requires_grad] if plan.adaptation else []
    if not adapted:
        return pruners
    rate = {} if adapter_lr is None else {"lr": adapter_lr}
    return [{"params": pruners}] * bool(pruners) + [{"params": adapted, **rate}]


def attach_relaxation(plan: Plan, relaxation: Relaxation) -> list[int]:
    """Give the relaxation to the stages that learn through a gate; returns which they are."""
    check_trainable(plan)
    pruners: list[Any] = [stage.pruner for stage in plan.stages]
    if any(pruner.searches for pruner in pruners):
        raise UserError("a method that searches for labels is trained by a `LabelSearchLitModule`.")
    learners = [i for i, pruner in enumerate(pruners) if pruner.uses_relaxation]
    for i in learners:
        pruners[i].relaxation = relaxation
    return learners
