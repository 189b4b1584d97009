"""FasterVLM: [CLS] attention of the vision tower."""

from __future__ import annotations

from torch import Tensor

from learnpruner.core.pruner import ScorePruner, Signal, View

CLS = Signal("cls_attention")


class FasterVLM(ScorePruner):
    """Ranks tokens by the [CLS] row of the layer whose output the projector reads, head mean.

    Paper: https://arxiv.org/abs/2412.01818. The authors renumber positions (pruner=fastervlm); pruner=cls is the same rule at
    original ones. Their projector runs on all tokens, here on kept ones only, which gives the same.
    """

    needs = frozenset({CLS})

    def score(self, view: View) -> Tensor:
        return view[CLS].mean(1)
