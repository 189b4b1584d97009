"""What tasks that measure time have in common: random weights without a plan are timed under an untrained one."""

from __future__ import annotations

from collections.abc import Sequence

from learnpruner.evaluation.task import PlanRequest, Task


class TimedTask(Task):
    """A task whose figures do not depend on what was trained.

    Attributes:
        method: config of conf/pruner that is timed where weights are random and no plan is named.
        prune_ratios: its budgets there.
    """

    method: str
    prune_ratios: Sequence[float]

    def budgets_for(self, request: PlanRequest) -> list[float]:
        return request.asked_budgets or (list(self.prune_ratios) if request.is_bare else [])

    def default_pruner(self, request: PlanRequest) -> str | None:
        return self.method if request.is_bare else None
