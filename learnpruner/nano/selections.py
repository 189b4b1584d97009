"""What the condition of the benchmark compares: an oracle, naive and diverse selections, one without late visual tokens."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from hydra.utils import instantiate
from torch import Tensor

from learnpruner.backbones import Backbone
from learnpruner.benchmarks.scenes import ScenesBenchmark
from learnpruner.core.pruner import Pruner, ScorePruner
from learnpruner.core.signals import CLS_ATTENTION, View
from learnpruner.data.scene_editions import sample_of_edition
from learnpruner.data.scenes import GRID
from learnpruner.plan import Plan, Stage

_MIDDLE, _THREE_QUARTERS = "12/32", "24/32"
CLS_RATIO = 0.1111  # 64 of 576 tokens
_LATE_RATIO = 0.752  # all tokens of three quarters of the layers, and four behind
_METHODS: dict[str, dict[str, Any]] = {
    "farthest-first": {"_target_": "learnpruner.pruners.divprune.DivPrune"},
    "determinantal": {"_target_": "learnpruner.pruners.cdpruner.CDPruner"},
    "untrained, 70 % diverse": {"_target_": "learnpruner.pruners.learnpruner.LearnedPruner", "diversity": 0.7},
    "random": {"_target_": "learnpruner.pruners.random.RandomPruner"},
    "text": {"_target_": "learnpruner.pruners.text_attention.TextAttention", "score_layer": "K-1"},
}
DIVERSE = ("farthest-first", "determinantal", "untrained, 70 % diverse")


class OraclePruner(ScorePruner):
    """Knows the answer's evidence; each call takes the next rows of the benchmark, which must be run in order."""

    def __init__(self, benchmark: ScenesBenchmark) -> None:
        super().__init__()
        self.benchmark, self.row = benchmark, 0

    def score(self, view: View) -> Tensor:
        rows = range(self.row, self.row + len(view.tokens))
        self.row += len(view.tokens)
        return torch.stack([self._ranked(row) for row in rows]).to(view.tokens.device)

    def _ranked(self, index: int) -> Tensor:
        """(576,): the first patch of each thing or digit, then the second of each, ...; the rest in a fixed random order below."""
        one = self.benchmark
        _, question = sample_of_edition(one.edition, one.split, index, one.seed, one.style)
        scores = np.random.default_rng(index).random(GRID * GRID)
        longest = max(len(patches) for patches in question.evidence)
        for patches in question.evidence:
            scores[patches] = 2 + longest - np.arange(len(patches))
        return torch.from_numpy(scores).float()


class MeasuredCls(ScorePruner):
    """[CLS] attention as a selection that also notes how many tokens it spreads over: the exponential of its entropy."""

    needs = frozenset({CLS_ATTENTION})

    def __init__(self) -> None:
        super().__init__()
        self.spread: list[float] = []

    def score(self, view: View) -> Tensor:
        scores = view[CLS_ATTENTION].mean(1)
        share = scores.float() / scores.float().sum(1, keepdim=True)
        self.spread += (-(share * share.clamp_min(1e-12).log()).sum(1)).exp().tolist()
        return scores


def two_stages(first: Pruner, prune_ratio: float) -> Plan:
    """The paper's plan with another selection behind the encoder: three quarters go there, the rest by text attention."""
    return Plan([Stage(first, "encoder", 3), Stage(instantiate(_METHODS["text"]), _MIDDLE, 1)], prune_ratio)


def condition_plans(backbone: Backbone, benchmark: ScenesBenchmark) -> dict[str, Plan]:
    """Name -> plan, fitted to the backbone; budgets stand in the names."""
    late = Plan([Stage(instantiate(_METHODS["text"]), _THREE_QUARTERS)], _LATE_RATIO)
    plans = {
        f"[CLS] {CLS_RATIO}": Plan([Stage(MeasuredCls(), "encoder")], CLS_RATIO),
        f"random {CLS_RATIO}": Plan([Stage(instantiate(_METHODS["random"]), "encoder")], CLS_RATIO),
        "four tokens late": late,
    }
    for ratio in (0.055, 0.028):
        plans[f"oracle {ratio}"] = two_stages(OraclePruner(benchmark), ratio)
        plans |= {f"{name} {ratio}": two_stages(instantiate(_METHODS[name]), ratio) for name in (*DIVERSE, "random")}
    with torch.random.fork_rng():
        torch.manual_seed(0)  # of the untrained scorer
        for plan in plans.values():
            plan.prepare(backbone.family).to(backbone.model.device).eval()
    return plans
