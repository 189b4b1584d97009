"""The public facade: a plan, built from a config or loaded from an export, put on a model, saved."""

from learnpruner.core.plan_spec import Stage
from learnpruner.plan.plan import Plan, load

__all__ = ["Plan", "Stage", "load"]
