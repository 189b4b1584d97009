"""LLaVA-PruMerge: the tokens that [CLS] attends to, each with its neighbours, and one token for all that is gone."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from learnpruner.core.pruner import RowwisePruner
from learnpruner.core.selection import Selection, gather_tokens
from learnpruner.core.signals import CLS_ATTENTION_JOINED, VISION_KEYS, View

LAST_CLS_ROW, LAST_KEYS = CLS_ATTENTION_JOINED.at(-1), VISION_KEYS.at(-1)
_NEIGHBOURS = 32  # tokens whose features a kept one takes in, the authors' constant


class PruMerge(RowwisePruner):
    """Keeps tokens by [CLS] attention of the tower's last layer and merges by the similarity of its keys.

    Paper: https://arxiv.org/abs/2403.15388. As in the authors' code the attention is of one head over the whole width,
    weights are not normalised, and tokens are read by descending attention. The token that sums up all others counts in
    the budget and takes the slot of the first of them. Differences: by default the plan's budget says how many are kept,
    and a budget of all tokens merges nothing; outliers are counted in each image, the authors' in the batch
    (`batchwise`).

    Args:
        adaptive: keep as many as the attention has outliers, at most the budget.
        in_place: whether each token stands where it comes from, for positions="original"; else they are read by
            descending attention.
        batchwise: with adaptive, every image keeps the average of outliers of the batch's images alike (in size), over
            which they are counted, as the authors do.
    """

    needs = frozenset({LAST_CLS_ROW, LAST_KEYS})

    def __init__(self, adaptive: bool = False, in_place: bool = False, batchwise: bool = False) -> None:
        super().__init__()
        self.adaptive, self.in_place, self.batchwise = adaptive, in_place, batchwise

    def forward(self, view: View, keep: Tensor) -> Selection:
        if self.adaptive:
            keep = keep.minimum(outlier_count(view[LAST_CLS_ROW], view.valid, self.batchwise).cpu() + 1)
        return super().forward(view, keep)

    def choose(self, view: View, keep: int) -> Selection:
        attention = view[LAST_CLS_ROW].float()
        order = attention.sort(dim=1, descending=True, stable=True).indices
        if keep == order.shape[1]:
            return Selection(order.sort(1).values)
        return merge_into_kept(order[:, : keep - 1], attention, view[LAST_KEYS], self.in_place)


def outlier_count(attention: Tensor, valid: Tensor | None = None, batchwise: bool = False) -> Tensor:
    """Count how many patches stand out, above the third quartile plus 1.5 times the range between quartiles.

    Args:
        attention: (B, N) of [CLS].
        valid: (B, N) real tokens; None for all.
        batchwise: quartiles are the batch's, and each row gets its average count, rounded down.

    Returns:
        (B,), at least 1.
    """
    attention = attention.float()
    if valid is not None:
        attention = attention.masked_fill(~valid, torch.nan)
    pool = attention.reshape(1, -1) if batchwise else attention
    low, high = pool.nanquantile(torch.tensor([0.25, 0.75], device=attention.device), dim=1, keepdim=True).unbind()
    count = (attention > high + 1.5 * (high - low)).sum(1)
    if batchwise:
        count = (count.sum() // len(count)).expand_as(count)
    return count.clamp_min(1)


def merge_into_kept(
    kept: Tensor, attention: Tensor, keys: Tensor, in_place: bool, neighbours: int = _NEIGHBOURS
) -> Selection:
    """Compute what kept tokens become, and one more for those that are gone, if any.

    x_i + sum of a_n x_n over the neighbours whose keys are most similar; and the sum of a_n x_n over all that are not
    kept. The authors append that sum where nothing is gone, too: a zero, for which an image has no slot.

    Args:
        kept: (B, K) in reading order.
        attention: a (B, N) of [CLS].
        keys: (B, H, N, d).
        in_place: the sum is read at the slot of the first token that is gone; otherwise last, as the authors do.
        neighbours: of each kept token.
    """
    n = attention.shape[1]
    own = F.one_hot(kept, n).float()  # (B, K, N)
    gone = own.sum(1) == 0
    unit = F.normalize(keys.float().transpose(1, 2).flatten(2), dim=-1)
    similarity = (gather_tokens(unit, kept) @ unit.transpose(1, 2)).masked_fill(own > 0, -torch.inf)
    nearest = similarity.sort(dim=2, descending=True, stable=True).indices[..., : min(neighbours, n - 1)]
    near = torch.zeros_like(own).scatter(2, nearest, 1.0)
    merge, slots = own + near * attention[:, None], kept
    if kept.shape[1] < n:
        merge = torch.cat([merge, (attention * gone)[:, None]], 1)
        slots = torch.cat([kept, gone.int().argmax(1, keepdim=True)], 1)
    index, order = slots.sort(1)
    return Selection(index, merge=gather_tokens(merge, order) if in_place else merge)
