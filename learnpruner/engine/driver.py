"""What the engine makes one attention layer do in one call."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

WatchFn = Callable[[Tensor, Tensor, float], None]


AttendFn = Callable[[Tensor, Tensor, Tensor, float], Tensor]


@dataclass(frozen=True)
class AttentionHook:
    """What one layer's attention does in one call.

    Args:
        watch: sees queries, keys and scaling.
        bias: (B, L), added to the keys' logits.
        attend: takes the place of the attention: queries, keys, values and scaling -> (B, L, H, d).
    """

    watch: WatchFn | None = None
    bias: Tensor | None = None
    attend: AttendFn | None = None
