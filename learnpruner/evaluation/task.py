"""What a task is: something that train.py's last step and eval.py run on a plan, one configuration of conf/benchmark."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar, Protocol

from learnpruner.backbones import Backbone
from learnpruner.core.budget_request import refuse_several_budgets
from learnpruner.evaluation.downsampling import Downsampling
from learnpruner.plan import Plan
from learnpruner.plan.pruner_configs import PrunerConfigs

SHIPPED_PLAN = "checkpoints/nano-r0.055"


@dataclass(frozen=True)
class PlanRequest:
    """What a user asks for before anything is loaded.

    Args:
        plan: an export, `none` for the unpruned model.
        pruner: name of a config of conf/pruner.
        prune_ratio, prune_ratios: share of the visual tokens to keep, and several of them.
        random_weights: whether the backbone's weights are random.
    """

    plan: str | None = None
    pruner: str | None = None
    prune_ratio: float | None = None
    prune_ratios: Sequence[float] | None = None
    random_weights: bool = False

    @property
    def is_bare(self) -> bool:
        """Whether weights are random and no plan is named: an untrained one takes the same time."""
        return self.random_weights and self.plan is None and self.pruner is None

    @property
    def asked_budgets(self) -> list[float]:
        """The budgets that are named."""
        return list(self.prune_ratios or ([] if self.prune_ratio is None else [self.prune_ratio]))


@dataclass(frozen=True)
class TaskContext:
    """What a task runs on.

    Args:
        backbone: the model.
        folder: of the run; results go there.
        plan: None for the unpruned model.
        source: where the plan comes from, for the record.
        label: the plan's name in the table.
        baselines: name in the table -> plan beside it, or the unpruned model on smaller pictures.
        budgets: those that the task itself answered to `Task.budgets_for`.
        pruners: the pruners' configs.
        seed: of plans that draw their weights.
        allow: packages beside this one whose pruners and policies exports may have.
        policy: export of a policy of KV-cache eviction that was trained in this run.
    """

    backbone: Backbone
    folder: Path
    plan: Plan | None = None
    source: str | None = None
    label: str = "learnpruner"
    baselines: Mapping[str, Plan | Downsampling] = field(default_factory=dict)
    budgets: Sequence[float] = ()
    pruners: PrunerConfigs = field(default_factory=PrunerConfigs)
    seed: int = 0
    allow: tuple[str, ...] = ()
    policy: str | None = None


class Task(Protocol):
    """A measurement of a plan. Tasks inherit what they do not say otherwise.

    name: in results and messages. baselines: name in the table -> config in conf/pruner, or "downsampling", for whoever builds them.
    takes_plan: whether one plan is measured; otherwise `plan=` is the task's own to read.
    default_plan: an export that is measured where nobody names one.
    """

    name: str
    baselines: Mapping[str, str]
    takes_plan: ClassVar[bool] = True
    default_plan: ClassVar[str] = SHIPPED_PLAN

    def budgets_for(self, request: PlanRequest) -> list[float]:
        """Choose the budgets to measure at; none is the plan's own.

        Raises:
            UserError: where the task cannot do what is asked for.
        """
        refuse_several_budgets(request.prune_ratios)
        return request.asked_budgets

    def default_pruner(self, request: PlanRequest) -> str | None:
        """Name a config of conf/pruner to measure, untrained, where nobody names a plan; None for `default_plan`."""
        return None

    def run(self, context: TaskContext) -> tuple[Path, str]:
        """Measure; return the file of the results and the text to print, "" where another process prints."""
        ...
