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
    """Bring settings of a run of any version to today's names; what no loss depends on and has another shape is left out."""
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
    benchmark = held.get("benchmark")
    if isinstance(benchmark, Mapping) and str(benchmark.get("_target_")).endswith("ConversationTask"):
        held["benchmark"] = _conversations(benchmark)
    return with_current_keys(held)


def _conversations(benchmark: Mapping[str, Any]) -> dict[str, Any]:
    """The eviction task, whose one more export stands among its exports now."""
    kept = {key: value for key, value in benchmark.items() if key != "trained"}
    if (path := benchmark.get("trained")) is not None:
        kept["exports"] = {**(kept.get("exports") or {}), "trained": path}
        if (chosen := kept.get("beside")) is not None:
            kept["beside"] = [*chosen, "trained"]
    return kept
