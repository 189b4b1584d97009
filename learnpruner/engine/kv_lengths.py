"""Whether the KV cache is as long, layer by layer, as the budget says: the guard against pruning that does nothing."""

from __future__ import annotations

from collections.abc import Sequence

from learnpruner.core.plan_spec import PlanSpec
from learnpruner.engine.prefill_trace import PrefillTrace


def check_kv_lengths(lengths: Sequence[int], expected: Sequence[int]) -> None:
    """Refuse numbers from a plan that did nothing: each layer must hold exactly its budget and the text.

    Raises:
        RuntimeError: where one holds more or less.
    """
    if tuple(lengths) != tuple(expected):
        raise RuntimeError(f"The KV cache holds {tuple(lengths)} tokens a layer; the plan promises {tuple(expected)}.")


def check_prefill_lengths(trace: PrefillTrace) -> None:
    """Hold the KV cache that a prefill left against the plan's budget.

    Raises:
        RuntimeError: where they differ, or where there is no cache.
    """
    if not trace.cached:
        raise RuntimeError("This prefill kept no KV cache, as in masked mode: there is nothing to verify.")
    check_kv_lengths(trace.cached, trace.budget)


def expected_kv_lengths(
    plan: PlanSpec | None, layers: int, lengths: Sequence[int], trace: PrefillTrace | None
) -> tuple[int, ...]:
    """Work out the KV length of each layer after the prefill: its longest row's text and its images' budgets.

    Args:
        plan: None for the unpruned model.
        layers: L of the language model.
        lengths: (B,) tokens of each row's whole prompt, visual ones included, padding not.
        trace: what the prefill did.

    Returns:
        (L,) tokens.

    Raises:
        RuntimeError: where a plan has stages, and no image passed through them.
    """
    if plan is None or not plan.stages:
        return (max(lengths),) * layers
    if trace is None:
        raise RuntimeError("The plan saw no image, so that nothing was dropped; the plan promises its budget.")
    if any(stage.pruner.adaptive for stage in plan.stages):
        return tuple(trace.budget)  # what such a method kept is its budget
    cuts = plan.cuts(layers)
    longest = [0] * (1 + len(cuts))  # before the first cut, and behind each
    for row, length in enumerate(lengths):
        sizes = [n for n, shown in zip(trace.sizes.tolist(), trace.rows.tolist(), strict=True) if shown == row]
        counts = [(n, *plan.counts(n, layers, least=True)) for n in sizes]  # of an image, before and behind each cut
        kept = [sum(column) for column in zip(*counts, strict=True)] or [0] * len(longest)
        longest = [max(most, length - sum(sizes) + k) for most, k in zip(longest, kept, strict=True)]
    return tuple(longest[sum(cut <= layer for cut in cuts)] for layer in range(layers))
