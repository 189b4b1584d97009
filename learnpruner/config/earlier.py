"""Settings as checkpoints of earlier versions hold them, in today's shape."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from learnpruner.config.renamed import with_current_keys

TERMS = {
    "kl": "KLDivergence",
    "cross_entropy": "CrossEntropy",
    "hidden": "HiddenMSE",
    "budget": "BudgetPenalty",
}  # weights of the one loss that there was -> the terms that they are now


def upgraded(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The same settings by today's names; what no loss depends on and has another shape now is left out.

    Args:
        settings: of a run of any version.
    """
    held = dict(settings)
    if isinstance(weights := held.pop("objective", None), Mapping):
        held["loss"] = {
            name: {"_target_": f"learnpruner.training.losses.{TERMS[name]}", "weight": weight}
            for name, weight in weights.items()
            if weight and name in TERMS
        }
    if isinstance(shares := held.pop("schedule", None), Mapping):
        target = "learnpruner.training.schedules.linear_with_warmup"
        held["scheduler"] = {"_target_": target, "_partial_": True, **shares}
    for group in ("callbacks", "logger"):
        entries = held.get(group)
        if isinstance(entries, Mapping) and any(not isinstance(one, Mapping | None) for one in entries.values()):
            del held[group]
    return with_current_keys(held)
