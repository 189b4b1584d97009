"""VisionZip: [CLS], the tokens that it attends to, and a few that take in all others."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from learnpruner.core.pruner import RowwisePruner
from learnpruner.core.selection import Selection, gather_tokens, top_k_selection
from learnpruner.core.signals import CLS_ATTENTION, CLS_STATE, VISION_KEYS, View
from learnpruner.utils.errors import UserError


class VisionZip(RowwisePruner):
    """Dominant tokens by [CLS] attention, [CLS] itself among them; contextual ones that absorb the rest by key similarity.

    Paper: https://arxiv.org/abs/2412.04467. A contextual token is the sum, not the average, of its own feature and the
    mean of those assigned to it. [CLS] counts in the budget, and takes the slot of the first patch that has gone; a plan
    that keeps all N tokens keeps the patches and no [CLS]. The authors give counts for 64, 128 and 192 tokens; other
    budgets take the same share.

    Args:
        contextual: share of the kept tokens that absorb others.
        in_place: whether each token stands where it comes from, for positions="original"; else [CLS] is read first and
            contextual tokens last, as the authors do.
    """

    needs = frozenset({CLS_ATTENTION, VISION_KEYS, CLS_STATE})

    def __init__(self, contextual: float = 10 / 64, in_place: bool = False) -> None:
        super().__init__()
        if not 0 <= contextual < 1:
            raise UserError(f"contextual={contextual!r} is refused: it is a share of the kept tokens, 0 to below 1.")
        self.contextual, self.in_place = contextual, in_place

    def choose(self, view: View, keep: int) -> Selection:
        rows, n = view.tokens.shape[:2]
        if keep == n:
            return Selection(torch.arange(n, device=view.tokens.device).expand(rows, n))
        contextual = min(keep - 1, round(keep * self.contextual))
        dominant, targets, merge = dominant_and_contextual(
            view[CLS_ATTENTION], view[VISION_KEYS].float().mean(1), keep - contextual, contextual
        )
        tokens = view.tokens.float()
        read = torch.cat([view[CLS_STATE].float()[:, None], gather_tokens(tokens, dominant), merge @ tokens], 1)
        patches = torch.cat([dominant, targets], 1)
        free = Selection(patches).mask(n).int().argmin(1, keepdim=True)
        slots = torch.cat([free, patches], 1)
        index, order = slots.sort(1)
        return Selection(index, values=gather_tokens(read, order) if self.in_place else read)


def dominant_and_contextual(
    attention: Tensor, keys: Tensor, dominant: int, contextual: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Choose dominant patches by attention, and contextual ones that absorb the rest.

    Args:
        attention: (B, H, N) of [CLS].
        keys: (B, N, d), head mean.
        dominant: how many are chosen by attention, [CLS] counted.
        contextual: how many absorb the rest, the targets.

    Returns:
        Dominant patches and targets, both in raster order, and the weights (B, contextual, N) of what targets become.
    """
    rows, n = keys.shape[:2]
    kept = top_k_selection(attention.float().sum(1), torch.full((rows,), dominant - 1))
    left = kept.mask(n).int().argsort(dim=1, stable=True)[:, : n - dominant + 1]  # raster order
    step = max(1, left.shape[1] // max(1, contextual))
    is_target = torch.zeros(left.shape[1], dtype=torch.bool, device=left.device)
    is_target[: step * contextual : step] = True
    targets, others = left[:, is_target], left[:, ~is_target]
    merge = torch.zeros(rows, contextual, n, device=keys.device)
    if contextual:
        unit = F.normalize(keys.float(), dim=-1)
        nearest = (gather_tokens(unit, others) @ gather_tokens(unit, targets).transpose(1, 2)).argmax(-1)  # (B, others)
        assigned = F.one_hot(nearest, contextual).float().transpose(1, 2)  # (B, contextual, others)
        share = assigned / assigned.sum(-1, keepdim=True).clamp_min(1)
        merge.scatter_(2, others[:, None].expand_as(share), share)
        merge.scatter_(2, targets[..., None], 1.0)
    return kept.index, targets, merge
