"""Decisions before the LLM: which tokens of each image enter it, chosen on features or on projected tokens."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from learnpruner.backbones.family import PatchGrids
from learnpruner.core.plan_spec import Stage
from learnpruner.core.selection import Selection, gather_tokens
from learnpruner.core.signals import Signal, View
from learnpruner.engine.image_layout import ImageLayout
from learnpruner.engine.packing import scatter_tokens
from learnpruner.engine.row_groups import RowKind, choose_by_kind
from learnpruner.utils.errors import UserError


class ImageTokens:
    """The images of one call, while the stages before the LLM narrow them down.

    Args:
        tokens: (I, M, D) what is left.
        layout: of the N in the prompt.

    Attributes:
        index: (I, M) where it lies among the image's N tokens.
        valid: (I, M) or None.
        real: (I, N) which tokens there are at all, None for all.
        sizes: how many, an image.
        kept, gates: one (I, N) a stage; a gate is differentiable where the pruner learns.
    """

    def __init__(self, tokens: Tensor, layout: ImageLayout, grids: Sequence[PatchGrids]) -> None:
        self.shape, self.sizes, self.layout = layout.shape, layout.sizes, layout
        self.grids = grids
        self.tokens, self.valid = tokens, None if layout.valid is None else layout.valid.to(tokens.device)
        self.real = self.valid
        self.index = torch.arange(self.shape[1], device=tokens.device).expand(self.shape)
        self.selections: list[Selection] = []
        self.kept: list[Tensor] = []
        self.gates: list[Tensor] = []

    def narrow(
        self,
        stage: Stage,
        keep: Sequence[int],
        signals: Mapping[Signal, Tensor],
        asked: Mapping[Signal, Tensor],
        words: Sequence[int] | None = None,
        owner: Sequence[int] | None = None,
    ) -> None:
        """Let one stage choose among the tokens of each image.

        Args:
            stage: that chooses.
            keep: (I,) tokens to keep of each image.
            signals: over N tokens.
            asked: of the question; they pass as they are.
            words: rows of the question beside each image, for a pruner that reads them.
            owner: the prompt of each image, for a pruner that chooses across the images of a prompt.
        """
        seen = {s: asked[s] if s in asked else self._left(s, signals[s]) for s in stage.pruner.needs}
        kinds = self._kinds([None] * len(self.grids) if words is None else words)
        chosen = choose_by_kind(stage.pruner, View(self.tokens, self.valid, signals=seen), keep, kinds, owner)
        self.selections.append(chosen)
        self.gates.append(self._gate(chosen))
        self.tokens = chosen.apply(self.tokens)
        valid = None if self.valid is None else gather_tokens(self.valid, chosen.index)
        self.valid = chosen.valid if valid is None else valid if chosen.valid is None else valid & chosen.valid
        self.index = gather_tokens(self.index, chosen.index)
        self.kept.append(Selection(self.index, self.valid).mask(self.shape[1]))

    @property
    def merged(self) -> bool:
        """Whether a kept token differs from the one whose place it takes."""
        return any(chosen.changes for chosen in self.selections)

    def spread(self, onto: Tensor | None = None) -> Tensor:
        """Lay what is left out at its places among N: on zeros, or over `onto` (I, N, D)."""
        if onto is None:
            onto = self.tokens.new_zeros(*self.shape, self.tokens.shape[-1])
        return scatter_tokens(onto, self.index, self.tokens, self.valid)

    def pool(self, size: int) -> Tensor:
        """Draw `size` dropped tokens of each image at random: (I, N) bool."""
        dropped = ~self.kept[-1] if self.real is None else ~self.kept[-1] & self.real
        draw = torch.rand(self.shape, device=dropped.device).masked_fill(~dropped, -1.0)
        best = draw.topk(min(size, self.shape[1]), dim=1)
        return torch.zeros_like(dropped).scatter(1, best.indices, best.values >= 0)

    def _kinds(self, words: Sequence[int | None]) -> list[RowKind]:
        """What each image has in common with those alike: an image that has lost tokens lies on no grid, and has no frames."""
        facts = zip(self._counts(), self.sizes, self.grids, words, strict=True)
        return [RowKind(left, tuple(grids) if left == size else (), length) for left, size, grids, length in facts]

    def _counts(self) -> list[int]:
        """Tokens left of each image; the device is waited for where an earlier stage may have kept any number."""
        if self.valid is None:
            return [self.index.shape[1]] * len(self.grids)
        return self.sizes if not self.selections else self.valid.sum(1).tolist()

    def _left(self, signal: Signal, values: Tensor) -> Tensor:
        """What a signal says of the tokens that are left; one that is not over the N tokens stays as it is."""
        if values.shape[0] != self.shape[0]:
            raise UserError(
                f"{signal} of {values.shape[0]} images does not fit {self.shape[0]} rows of features: "
                "pass one image a row, without image_index, to a pruner that reads the pixels."
            )
        if signal.axis is None:
            return values
        return gather_tokens(values.transpose(1, signal.axis), self.index).transpose(1, signal.axis)

    def _gate(self, chosen: Selection) -> Tensor:
        """The stage's gate over N; 1 where an earlier stage has dropped, whose own gate speaks for these."""
        gate = chosen.mask(self.index.shape[1]).float() if chosen.gate is None else chosen.gate.float()
        if self.valid is not None:
            gate = torch.where(self.valid, gate, 1.0)
        return torch.ones(self.shape, device=gate.device).scatter_reduce(1, self.index, gate, "prod")


def hash_pixels(pixel_values: Tensor) -> Tensor:
    """Hash each image's pixels, (I,) int64, by nothing else, neither batch nor device."""
    bits = pixel_values.detach().float().contiguous().view(torch.int32).flatten(1).long()
    mixed = bits * 0x9E3779B97F4A7C1 + torch.arange(bits.shape[1], device=bits.device) * 0x1F58B76C5F1A4D3
    mixed = (mixed ^ (mixed >> 29)) * 0x3C6EF372FE94F82B  # products and sums wrap around, which is what a hash wants
    return (mixed ^ (mixed >> 32)).sum(1)
