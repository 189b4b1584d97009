"""Keeps the newest tokens and a random sample of all others: the bar that a learned policy has to clear."""

from __future__ import annotations

import torch
from torch import Tensor

from learnpruner.kv_eviction.policy import CacheSlots, ScoreEvictionPolicy
from learnpruner.utils.validation import check_int

_BITS = 0xFFFFFFFF


class RandomEviction(ScoreEvictionPolicy):
    """Another sample in each layer and head, so that together they cover much.

    It is a function of the token's position, so that a token that was kept once is kept again, and no batch mate changes it.

    Args:
        recent: newest tokens that always stay.
    """

    def __init__(self, recent: int = 16) -> None:
        super().__init__()
        check_int("recent", recent, 0)
        self.recent, self.heads = recent, 0

    def prepare(self, width: int, layers: int, heads: int) -> None:
        self.heads = heads

    def mark(self, layer: int, hidden: Tensor) -> Tensor:
        """Remember the number of the layer and head: (B, G, q)."""
        numbers = torch.arange(self.heads, device=hidden.device) + layer * self.heads
        return numbers[None, :, None].expand(hidden.shape[0], -1, hidden.shape[1])

    def score(self, slots: CacheSlots) -> Tensor:
        assert slots.mark is not None
        chance = hash_uniform(slots.position.long(), slots.mark.long())
        return torch.where(slots.age <= self.recent + 1, 2.0 + slots.position, chance)  # the newest first

    def keeps(self, budget: int) -> bool:
        return budget > self.recent


def hash_uniform(position: Tensor, stream: Tensor) -> Tensor:
    """Hash each position and stream to a number in [0, 1)."""
    mixed = (position * 0x9E3779B1 + stream * 0x85EBCA6B) & _BITS
    for shift, factor in ((16, 0x7FEB352D), (15, 0x846CA68B)):
        mixed = ((mixed ^ (mixed >> shift)) * factor) & _BITS
    return (mixed ^ (mixed >> 16)).float() / (_BITS + 1)
