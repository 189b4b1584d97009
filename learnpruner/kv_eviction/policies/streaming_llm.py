"""Keeps the newest tokens and the very first ones."""

from __future__ import annotations

import torch
from torch import Tensor

from learnpruner.kv_eviction.policy import CacheSlots, ScoreEvictionPolicy
from learnpruner.utils.validation import check_int


class StreamingLLM(ScoreEvictionPolicy):
    """A sliding window with attention sinks (StreamingLLM, https://arxiv.org/abs/2309.17453).

    Args:
        sinks: first tokens of a row that always stay; the rest of the budget goes to the newest. Differs from the
            authors' code: positions go on counting, they are not renumbered inside the window.
    """

    def __init__(self, sinks: int = 4) -> None:
        super().__init__()
        check_int("sinks", sinks, 0)
        self.sinks = sinks

    def score(self, slots: CacheSlots) -> Tensor:
        return slots.position.float().masked_fill(slots.position < self.sinks, torch.inf)

    def keeps(self, budget: int) -> bool:
        return budget > self.sinks  # else there is no room for recent tokens
