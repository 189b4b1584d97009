"""The extension point of eviction: a policy looks at the slots of every layer and says which stay.

Letters: B batch, G key-value heads, S slots of a layer's cache (another number in each layer), q new tokens, D width.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from learnpruner.utils.constructor import constructor_arguments


@dataclass(frozen=True)
class CacheSlots:
    """The cache of one layer, as a policy sees it; all tensors are (B, G, S), slots in the order in which they were written.

    Args:
        position: the token's place in its row, counted without padding.
        age: tokens since then, 2 for the token written last (TRIM-KV counts to one after the next query).
        valid: False on padding and fillers.
        mark: what the policy wrote beside the token when it came, None for policies that write nothing.
    """

    position: Tensor
    age: Tensor
    valid: Tensor
    mark: Tensor | None = None


class EvictionPolicy(nn.Module):
    """Base of every policy. Constructor arguments are kept as attributes of the same name: an export records them."""

    def mark(self, layer: int, hidden: Tensor) -> Tensor | None:
        """Give a number to remember beside each new token and head.

        Args:
            layer: its index.
            hidden: (B, q, D), the input of the layer's attention.

        Returns:
            (B, G, q), or None.
        """
        return None

    def forward(self, layers: Sequence[CacheSlots], budget: int) -> list[Tensor]:
        """Choose which slots of each layer stay, (B, G, S) bool: `budget` a layer and head, or as many on the average."""
        raise NotImplementedError

    def prepare(self, width: int, layers: int, heads: int) -> None:
        """Meet a backbone of D, L layers and G heads: build, or check, what depends on them."""

    def keeps(self, budget: int) -> bool:
        """Tell whether this policy can keep such a budget."""
        return True

    def arguments(self) -> dict[str, Any]:
        """List the constructor's arguments, for the export."""
        return constructor_arguments(self)


class ScoreEvictionPolicy(EvictionPolicy):
    """Base of policies that rank slots: higher stays, ties go to the slot written first.

    Attributes:
        pool: "head" keeps `budget` slots of each layer and head; "cache" keeps the best `budget` x layers x heads of
            the whole cache, so that heads which need little leave room to those which need much.
    """

    pool: str = "head"

    def score(self, slots: CacheSlots) -> Tensor:
        """Rank the slots: (B, G, S), higher stays."""
        raise NotImplementedError

    def forward(self, layers: Sequence[CacheSlots], budget: int) -> list[Tensor]:
        scores = [self.score(slots).float().masked_fill(~slots.valid, -torch.inf) for slots in layers]
        kept = top_pooled_masks(scores, budget) if self.pool == "cache" else [top_count_mask(s, budget) for s in scores]
        return [keep & slots.valid for keep, slots in zip(kept, layers, strict=True)]


def top_count_mask(scores: Tensor, count: int) -> Tensor:
    """Mark the `count` highest of the last dim; ties go to the lower index."""
    order = scores.sort(dim=-1, descending=True, stable=True).indices[..., :count]
    return torch.zeros_like(scores, dtype=torch.bool).scatter(-1, order, True)


def top_pooled_masks(scores: Sequence[Tensor], budget: int) -> list[Tensor]:
    """Share one budget out over all layers and heads: scores (B, G, S) a layer -> masks of a row's `budget` x L x G best."""
    shapes = [score.shape[1:] for score in scores]
    pooled = torch.cat([score.flatten(1).to(scores[0].device) for score in scores], 1)
    kept = top_count_mask(pooled, budget * len(scores) * scores[0].shape[1])
    parts = kept.split([shape.numel() for shape in shapes], 1)
    return [part.unflatten(1, shape).to(score.device) for part, shape, score in zip(parts, shapes, scores, strict=True)]
