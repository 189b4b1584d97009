"""A plan on a particular model: which stage acts where, and with how many tokens."""

from __future__ import annotations

import functools
from dataclasses import dataclass, field

from learnpruner.backbones.family import ModelFamily
from learnpruner.core.plan_spec import Mode, PlanSpec, Stage
from learnpruner.engine.llm_signals import ATTENTION_SIGNALS


@dataclass(eq=False)
class ResolvedPlan:
    """What does not change while a plan is attached.

    Args:
        pool: dropped tokens an image that stay in the sequence in masked mode, None for all.
    """

    plan: PlanSpec
    family: ModelFamily
    mode: Mode
    pool: int | None
    _counts: dict[tuple[float, int], tuple[int, ...]] = field(default_factory=dict, init=False)

    @property
    def masked(self) -> bool:
        return self.mode == "masked"

    @property
    def compact(self) -> bool:
        return self.plan.positions == "compact"

    @functools.cached_property
    def cuts(self) -> tuple[int, ...]:
        return self.plan.cuts(self.family.layers)

    @functools.cached_property
    def before(self) -> list[Stage]:
        """Stages before the language model."""
        return [stage for stage, cut in zip(self.plan.stages, self.cuts, strict=True) if cut == 0]

    @functools.cached_property
    def inside(self) -> list[tuple[Stage, int]]:
        """Stages inside it, each with its first layer."""
        return [(stage, cut) for stage, cut in zip(self.plan.stages, self.cuts, strict=True) if cut]

    @functools.cached_property
    def watched(self) -> dict[int, frozenset[str]]:
        """What stages read in the attention of the LLM's layers, by layer."""
        found: dict[int, frozenset[str]] = {}
        for need, cut in [(need, cut) for stage, cut in self.inside for need in stage.pruner.needs]:
            if need.name in ATTENTION_SIGNALS:
                layer = cut - 1 if need.layer is None else int(need.layer)
                found[layer] = found.get(layer, frozenset()) | {ATTENTION_SIGNALS[need.name]}
        return found

    @property
    def shortens(self) -> bool:
        """Whether the projector runs on kept tokens only."""
        return (
            self.family.projector_is_pointwise
            and self.family.projector_skips_dropped
            and not self.masked
            and bool(self.before)
        )

    def counts(self, n: int) -> tuple[int, ...]:
        """Tell how many tokens each stage keeps of an image of n."""
        key = self.plan.prune_ratio, n
        if key not in self._counts:
            self._counts[key] = self.plan.counts(n, self.family.layers, least=True)
        return self._counts[key]
