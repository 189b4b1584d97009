"""Which LightningModule trains a plan."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch.optim import Optimizer

from learnpruner.backbones.loading import Backbone
from learnpruner.core.relaxations import Relaxation
from learnpruner.plan import Plan
from learnpruner.training.label_search_module import LabelSearchLitModule
from learnpruner.training.losses import DistillationLoss
from learnpruner.training.plan_module import PlanLitModule
from learnpruner.training.pruner_module import PrunerLitModule


def make_plan_module(
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
) -> PlanLitModule:
    """Make the module that trains a plan; arguments as `PrunerLitModule`.

    It trains by labels where the plan's method searches for them, which takes neither relaxation nor loss, else by
    distillation.
    """
    if any(stage.pruner.searches for stage in plan.stages):
        return LabelSearchLitModule(backbone, plan, optimizer, scheduler, seed, config)
    return PrunerLitModule(
        backbone, plan, relaxation, loss, optimizer, scheduler, grad_tokens_per_image, seed, config, adapter_lr
    )
