"""What a prefill did, as values: which tokens every stage kept, and how long each layer's KV cache is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property

import torch
from torch import Tensor

from learnpruner.core.budget import mean_tokens_per_layer
from learnpruner.core.selection import Selection


@dataclass
class PrefillTrace:
    """Values of one prefill; costly views of them are made when they are read.

    Args:
        selections: one a stage, over the candidates that the stage saw (images before the LLM, rows inside it).
        alive: one a stage, (B, L) which prompt positions are left.
        visual: (B, L) the image placeholders.
        slots: for each placeholder in order, which of the I x N patches it shows (-1: none, a separator).
        shape: (I, N).
        grids: for each image the patch grids that its tokens make up, one after the other.
        cuts, layers: of the plan.
        budget: KV length that each layer should have.
        cached: that it has.
    """

    visual: Tensor
    slots: Tensor
    shape: tuple[int, int]
    cuts: tuple[int, ...]
    layers: int
    selections: list[Selection] = field(default_factory=list)
    alive: list[Tensor] = field(default_factory=list)
    grids: Sequence[Sequence[tuple[int, int]]] = ()
    budget: Sequence[int] = ()
    cached: Sequence[int] = ()

    @cached_property
    def _slots(self) -> Tensor:
        """Beside the other values; moved when they are read, since a copy would wait for the device."""
        return self.slots.to(self.visual.device)

    @cached_property
    def kept(self) -> list[Tensor]:
        """For each stage, which patches of each image it kept: (I, N) bool, in raster order."""
        real = self._slots >= 0
        flat = [self.visual.new_zeros(self.shape[0] * self.shape[1]) for _ in self.alive]
        for out, alive in zip(flat, self.alive, strict=True):
            out[self._slots[real]] = alive[self.visual][real]
        return [out.view(self.shape) for out in flat]

    @cached_property
    def sizes(self) -> Tensor:
        """Visual tokens of each image before any stage: (I,)."""
        shown = self._slots[self._slots >= 0] // self.shape[1]
        return shown.new_zeros(self.shape[0]).index_add(0, shown, torch.ones_like(shown))

    @cached_property
    def rows(self) -> Tensor:
        """The row of the call that shows each image: (I,)."""
        real = self._slots >= 0
        rows = self.visual.nonzero()[:, 0][real]
        return rows.new_zeros(self.shape[0]).scatter(0, self._slots[real] // self.shape[1], rows)

    def finest(self, image: int) -> list[Tensor]:
        """Lay out, for each stage, what it kept of an image on the last of its grids, the finest: (H, W) bool."""
        if not self.grids[image]:
            return []
        height, width = self.grids[image][-1]
        start = sum(h * w for h, w in self.grids[image][:-1])
        return [kept[image, start : start + height * width].view(height, width) for kept in self.kept]

    @cached_property
    def tokens(self) -> list[Tensor]:
        """For each stage, how many tokens it kept of each image: (I,)."""
        return [kept.sum(1) for kept in self.kept]

    @cached_property
    def averaged(self) -> float:
        """Visual tokens of an image on the average of the LLM's layers, and of the images."""
        real = torch.count_nonzero(self._slots >= 0).item() / max(1, self.shape[0])
        counts = [count.float().mean().item() for count in self.tokens]
        return mean_tokens_per_layer(counts, self.cuts, real, self.layers)  # type: ignore[arg-type]
