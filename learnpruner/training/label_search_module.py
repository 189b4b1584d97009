"""One training step of a method that searches for labels: no gradient passes through the model, and no loss of conf/loss counts."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from learnpruner.backbones.loading import Backbone
from learnpruner.data.collate import Batch
from learnpruner.engine.shared_vision import shared_vision
from learnpruner.plan import Plan
from learnpruner.training.label_search import label_search_loss
from learnpruner.training.plan_module import PlanLitModule, check_trainable
from learnpruner.utils.errors import UserError


class LabelSearchLitModule(PlanLitModule):
    """Trains the only stage of a plan on labels that it searches with the frozen model, such as `EvoComp`.

    Args:
        backbone: frozen; says what a kept set costs.
        plan: one stage, whose pruner says how many questions it `searches` a step.
        optimizer: partial that takes the parameters.
        scheduler: partial that takes the optimizer.
        seed: randomness of a step is a function of it and of the step.
        config: settings of the run, which its checkpoints keep.
    """

    def __init__(
        self,
        backbone: Backbone,
        plan: Plan,
        optimizer: Callable[[list[Any]], Optimizer],
        scheduler: Callable[..., Any] | None = None,
        seed: int = 0,
        config: dict[str, Any] | None = None,
    ) -> None:
        super().__init__(backbone, plan, optimizer, scheduler, seed, config)
        check_trainable(plan)
        if plan.adaptation is not None:
            raise UserError(
                "a method that searches for labels sends no gradient through the model: train it with adapter=none."
            )
        self.train()

    def trained_parameters(self) -> list[Any]:
        return [p for p in self.plan.stages.parameters() if p.requires_grad]  # type: ignore[attr-defined]  # a ModuleList

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        self.anneal()
        with self.step_randomness(), shared_vision(self.backbone.model):
            parts = label_search_loss(self.backbone.model, self.plan, batch)
        return self.log_loss(torch.stack(list(parts.values())).sum(), parts)
