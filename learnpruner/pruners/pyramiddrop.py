"""PyramidDrop: the last prompt token's attention, asked of the next layer, at several depths."""

from __future__ import annotations

from torch import Tensor

from learnpruner.core.pruner import ScorePruner
from learnpruner.core.signals import NEXT_ATTENTION, View
from learnpruner.pruners.fastv import mean_over_heads


class PyramidDrop(ScorePruner):
    """Ranks visual tokens by what the question's last row would attend to in the layer after the cut, head mean.

    The layer's own norm, projections and RoPE; softmax in fp32 over the whole sequence.
    Paper: https://arxiv.org/abs/2410.17247, cuts at 8, 16 and 24 of 32 layers that halve the tokens each time, on
    renumbered positions. The published shares average 270 of 576 tokens; here they are scaled to the plan's budget.
    In training the authors average the rows before each answer of a conversation; here a sample has one question.
    """

    needs = frozenset({NEXT_ATTENTION})

    def score(self, view: View) -> Tensor:
        return mean_over_heads(view[NEXT_ATTENTION])
