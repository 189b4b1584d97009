"""Trainings of a plan, by whatever loss: which weights learn, and how far the training is."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch.optim import Optimizer

from learnpruner.backbones.loading import Backbone
from learnpruner.data.collate import Batch
from learnpruner.plan import Plan
from learnpruner.training.base_module import FrozenBackboneLitModule
from learnpruner.training.validation import HeldOutScores
from learnpruner.utils.errors import UserError


class PlanLitModule(FrozenBackboneLitModule):
    """Trains the weights of a plan; arguments as `PrunerLitModule`."""

    def __init__(
        self,
        backbone: Backbone,
        plan: Plan,
        optimizer: Callable[[list[Any]], Optimizer],
        scheduler: Callable[..., Any] | None = None,
        seed: int = 0,
        config: dict[str, Any] | None = None,
        adapter_lr: float | None = None,
    ) -> None:
        super().__init__(backbone, optimizer, scheduler, seed, config)
        self.plan, self.adapter_lr, self.held_out = plan, adapter_lr, HeldOutScores()

    def on_validation_epoch_start(self) -> None:
        self.held_out.reset()

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        self.held_out.add(self.backbone.model, self.plan, batch, batch_idx)

    def on_validation_epoch_end(self) -> None:
        sums = self.trainer.strategy.reduce(self.held_out.sums.to(self.device), reduce_op="sum")
        self.log_dict(self.held_out.metrics(sums.cpu()), prog_bar=True, batch_size=1)

    def anneal(self) -> None:
        """Tell the pruners how far the training is."""
        for stage in self.plan.stages:
            stage.pruner.anneal(self.progress)

    @property
    def progress(self) -> float:
        """Share of the training that is done: 0 at the first step, 1 at the last."""
        if self._trainer is None:
            return 0.0
        return self.trainer.global_step / max(1, self.trainer.max_steps - 1)


def check_trainable(plan: Plan) -> None:
    """Refuse a plan without weights to learn."""
    if not any(p.requires_grad for p in plan.parameters()):
        raise UserError("the plan has no weights to train; choose a pruner that learns, such as pruner=learnpruner.")
