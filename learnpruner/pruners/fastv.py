"""FastV: the last prompt token's attention in an early layer of the language model."""

from __future__ import annotations

from torch import Tensor

from learnpruner.core.pruner import ScorePruner
from learnpruner.core.signals import LAST_ATTENTION, View


class FastV(ScorePruner):
    """Ranks visual tokens by what the question's last row attends to in the layer before the cut, head mean.

    Paper: https://arxiv.org/abs/2403.06764, cut at layer 2 of 32, original positions.
    The authors' code computes the whole map of that layer and scores a batch by its first row; here one row is
    computed, for each prompt its own. In training it is the question's last row, never an answer's.
    """

    needs = frozenset({LAST_ATTENTION})

    def score(self, view: View) -> Tensor:
        return mean_over_heads(view[LAST_ATTENTION])


def mean_over_heads(row: Tensor) -> Tensor:
    """Average one attention row over its heads: (B, H, N) -> (B, N)."""
    return row.float().mean(1)
