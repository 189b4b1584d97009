"""HiPrune: anchors of a middle layer with their neighbours, and registers of a deep one."""

from __future__ import annotations

import torch
from torch import Tensor

from learnpruner.core.pruner import Pruner
from learnpruner.core.selection import Selection, top_k_selection
from learnpruner.core.signals import RECEIVED_ATTENTION, View
from learnpruner.utils.errors import UserError

MIDDLE_ATTENTION = RECEIVED_ATTENTION.at("9/24")
_SCALED = "its middle layer, the ninth of 24, is scaled to the tower's depth"  # said in tables
_PATCHES = 5  # an anchor and its four neighbours


class HiPrune(Pruner):
    """Keeps what a middle layer attends to, with the four neighbours, then what the layer before the projector does.

    Paper: https://arxiv.org/abs/2508.00553. Attention received by a patch: mean over heads and over all queries, [CLS]
    among them. The middle layer is the ninth of 24, scaled to the tower's depth. As in the authors' code, a neighbour is
    the next index: at the image's edge it lies on the other side, or is the first or last patch. Differences: where
    anchors and neighbours are more than the budget, the authors' code fails, here anchors stay first, then neighbours
    by the deep score. Their variant for Qwen2.5-VL reads layer 16 of 32 over all patches at once, averages what the four
    patches of a token receive and keeps original positions: the rule is the same (`hiprune` on such scores), but the
    engine does not watch that tower, whose images are one sequence in windows, and refuses.

    Args:
        alpha: share of the budget for anchors and neighbours; higher keeps more of what objects are made of.
    """

    needs = frozenset({MIDDLE_ATTENTION, RECEIVED_ATTENTION})
    fallback = _SCALED

    def __init__(self, alpha: float = 0.1) -> None:
        super().__init__()
        if not 0 <= alpha <= 1:
            raise UserError(f"alpha={alpha!r} is refused: it is a share of the kept tokens, from 0 to 1.")
        self.alpha = alpha

    def forward(self, view: View, keep: Tensor) -> Selection:
        _, width = view.plane("HiPrune")
        return hiprune_selection(view[MIDDLE_ATTENTION], view[RECEIVED_ATTENTION], keep, self.alpha, width, view.valid)


def hiprune_selection(
    middle: Tensor, deep: Tensor, keep: Tensor, alpha: float, width: int, valid: Tensor | None = None
) -> Selection:
    """Keep anchors of a middle layer and their neighbours first, then by the scores of the deep layer.

    Args:
        middle: (B, N) scores of the middle layer.
        deep: (B, N) scores of the layer before the projector.
        keep: (B,) tokens to keep, on the CPU.
        alpha: share of them for anchors with their neighbours.
        width: patches of a line of the image.
        valid: (B, N) real tokens; None for all.
    """
    anchors = torch.tensor([round(count * alpha / _PATCHES) for count in keep.tolist()])  # half to even, as published
    anchor = top_k_selection(middle, anchors, valid).mask(middle.shape[1])
    first = anchor.int() + (anchor | neighbour_mask(anchor, width)).int()  # 2 anchors, 1 their neighbours, 0 the rest
    if valid is not None:
        first = first.masked_fill(~valid, -1)
    order = deep.float().sort(dim=1, descending=True, stable=True).indices
    order = order.gather(1, first.gather(1, order).sort(dim=1, descending=True, stable=True).indices)
    rank = torch.zeros_like(order).scatter(1, order, torch.arange(order.shape[1], device=order.device).expand_as(order))
    return top_k_selection(-rank, keep, valid)


def neighbour_mask(chosen: Tensor, width: int) -> Tensor:
    """Mark which patches are one before, one after, one line above or below a chosen one, (B, N) bool; ends are clamped."""
    found, n = torch.zeros_like(chosen), chosen.shape[1]
    places = torch.arange(n, device=chosen.device)
    for step in (-1, 1, -width, width):
        to = (places + step).clamp(0, n - 1).expand_as(chosen)
        found |= torch.zeros_like(chosen, dtype=torch.int).scatter_add(1, to, chosen.int()) > 0
    return found
