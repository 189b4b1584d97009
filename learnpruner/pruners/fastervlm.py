"""FasterVLM: [CLS] attention of the vision tower."""

from __future__ import annotations

from torch import Tensor

from learnpruner.core.pruner import ScorePruner
from learnpruner.core.signals import CLS_ATTENTION, View


class FasterVLM(ScorePruner):
    """Ranks tokens by the [CLS] row of the layer whose output the projector reads, head mean.

    Paper: https://arxiv.org/abs/2412.01818. The authors renumber positions (pruner=fastervlm); pruner=cls is the same rule at
    original ones. Their projector runs on all tokens, here on kept ones only, which gives the same.
    """

    needs = frozenset({CLS_ATTENTION})

    def score(self, view: View) -> Tensor:
        return view[CLS_ATTENTION].mean(1)
