"""What results.json says of one method at one budget."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import median
from typing import Any

from learnpruner.backbones import Backbone
from learnpruner.comparison.method_runs import OK, MethodRun
from learnpruner.evaluation.answer_cache import CallTiming
from learnpruner.evaluation.downsampling import Contestant, Downsampling
from learnpruner.evaluation.results import UNPRUNED, BenchmarkOutcomes
from learnpruner.profiling.flops import prompt_cost
from learnpruner.utils.errors import UserError
from learnpruner.utils.privacy import hide_paths


def method_row(
    one: MethodRun,
    found: BenchmarkOutcomes,
    timings: Mapping[str, Sequence[CallTiming]],
    cost: Mapping[str, Any],
    choice: Mapping[str, Any],
) -> dict[str, Any]:
    """Sum up one method at one budget: keys are the same for all, and None where there is no figure."""
    measured: dict[str, Any] = {"accuracy": None, "retention": None, "tokens": None, "difficult": None}
    if one.status == OK:
        measured |= found.row(one.row)
    return {
        "method": one.method,
        "plan": one.source,
        "prune_ratio": one.prune_ratio,
        "status": one.status,
        "why": one.why and hide_paths(one.why),
        "smallest": one.smallest,
        "reconstruction": one.reconstruction,
        "fallback": one.fallback,
        "adapts": one.adapts,
        "positions": one.plan.positions if one.plan is not None else None,
        **measured,
        "prefill_ratio": prefill_speedup(timings, one.row) if one.status == OK else None,
        "flops_ratio": cost.get("flops"),
        "kv_ratio": cost.get("kv_bytes"),
        "selection_ms": choice.get("total"),
        "signals_ms": choice.get("signals"),
    }


def costs(backbone: Backbone, plan: Contestant, text: int) -> dict[str, float]:
    """Compute how many times fewer FLOPs and KV bytes; nothing where there is no plan or no closed form."""
    if plan is None or isinstance(plan, Downsampling):
        return {}
    try:
        ratio: dict[str, float] = prompt_cost(backbone.model.config, plan, text, backbone.model.dtype.itemsize)["ratio"]
    except UserError:
        return {}
    return ratio


def prefill_speedup(timings: Mapping[str, Sequence[CallTiming]], name: str) -> float:
    """Tell how many times faster than the unpruned model's the prefill was: the median over batches, each with its own."""
    pairs = zip(timings[UNPRUNED], timings[name], strict=True)
    return float(median(whole.prefill_ms / pruned.prefill_ms for whole, pruned in pairs))
