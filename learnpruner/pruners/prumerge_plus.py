"""LLaVA-PruMerge+: PruMerge with tokens on a regular stride beside those that [CLS] attends to."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from learnpruner.core.pruner import RowwisePruner
from learnpruner.core.selection import Selection
from learnpruner.core.signals import Signal, View
from learnpruner.pruners.prumerge import LAST_CLS_ROW, LAST_KEYS, merge_into_kept, outlier_count

_ATTENDED = Signal("_attended")  # (B,) how many tokens a row takes by attention, where outliers say it


class PruMergePlus(RowwisePruner):
    """Keeps about a quarter of the budget by [CLS] attention and the rest by a stride over the raster; see PruMerge.

    Paper: https://arxiv.org/abs/2403.15388. With t tokens by attention the stride is a third of N / t, as in the authors'
    code, and at least one. Differences: by default t is the largest for which attention, stride and the token that sums
    up the rest fit the plan's budget, and what is then left, since both may choose a token, goes to the next by
    attention; the stride runs over all N tokens, the authors' constant is for 576.

    Args:
        adaptive: t is the number of outliers of the attention, and fewer than the budget may be kept; above a sixth of
            the tokens on the stride is one, nothing is dropped, and tokens gather their neighbours all the same.
        in_place: whether each token stands where it comes from, for positions="original"; else they are read by
            descending attention, those of the stride after them.
        batchwise: with adaptive, outliers are counted over the batch, as the authors do.
    """

    needs = frozenset({LAST_CLS_ROW, LAST_KEYS})

    def __init__(self, adaptive: bool = False, in_place: bool = False, batchwise: bool = False) -> None:
        super().__init__()
        self.adaptive, self.in_place, self.batchwise = adaptive, in_place, batchwise

    def forward(self, view: View, keep: Tensor) -> Selection:
        if self.adaptive:
            attended = outlier_count(view[LAST_CLS_ROW], view.valid, self.batchwise)
            real = torch.ones_like(view[LAST_CLS_ROW], dtype=torch.bool) if view.valid is None else view.valid
            first, strided = attended_and_strided(view[LAST_CLS_ROW].masked_fill(~real, -torch.inf), attended, real)
            keep = keep.minimum((first | strided).sum(1).cpu() + 1)
            view = replace(view, signals={**view.signals, _ATTENDED: attended})
        return super().forward(view, keep)

    def choose(self, view: View, keep: int) -> Selection:
        attention, (rows, n) = view[LAST_CLS_ROW].float(), view[LAST_CLS_ROW].shape
        if keep == n and not self.adaptive:
            return Selection(torch.arange(n, device=attention.device).expand(rows, n))
        attended = torch.full((rows,), most_attended_that_fit(keep - 1, n), device=attention.device)
        if self.adaptive:
            first, strided = attended_and_strided(attention, view[_ATTENDED])
            fits = ((first | strided).sum(1) < keep) | (keep == n)
            attended = torch.where(fits, view[_ATTENDED], attended)
        kept = order_by_attention_and_stride(attention, attended, keep if keep == n else keep - 1)
        return merge_into_kept(kept, attention, view[LAST_KEYS], self.in_place)


def stride_steps(ratio: float) -> int:
    """Tell the steps of the raster from one token to the next, beside a share of the tokens by attention."""
    return max(1, int(int(1 / ratio) / 3))


def most_attended_that_fit(room: int, n: int) -> int:
    """Find the most tokens by attention that leave room for their stride; 0 where none does, and there is no stride."""
    fits = [count for count in range(1, room + 1) if count + len(range(0, n, stride_steps(count / n))) <= room]
    return max(fits, default=0)


def attended_and_strided(
    attention: Tensor, attended: Tensor, real: Tensor | None = None, ratio: float | None = None
) -> tuple[Tensor, Tensor]:
    """Mark which tokens are among the most attended, and which are on the stride.

    Args:
        attention: (B, N) of [CLS].
        attended: (B,) how many tokens by attention.
        real: (B, N) real tokens; None for all.
        ratio: the share by attention that sets the stride, where it is not attended / N.

    Returns:
        (B, N) bool each.
    """
    real = torch.ones_like(attention, dtype=torch.bool) if real is None else real
    pairs = zip(attended.tolist(), real.sum(1).tolist(), strict=True)
    steps = [stride_steps(ratio or count / size) if count else size for count, size in pairs]
    strided = ((real.cumsum(1) - 1) % torch.tensor(steps, device=attention.device)[:, None] == 0) & real
    return attention_ranks(attention) < attended[:, None], strided & (attended > 0)[:, None]


def attention_ranks(attention: Tensor) -> Tensor:
    """Rank each token by descending attention, (B, N) from 0; ties go to the lower index."""
    order = attention.float().sort(dim=1, descending=True, stable=True).indices
    return torch.zeros_like(order).scatter(1, order, torch.arange(order.shape[1], device=order.device).expand_as(order))


def order_by_attention_and_stride(attention: Tensor, attended: Tensor, keep: int, ratio: float | None = None) -> Tensor:
    """List `keep` tokens in the order in which they are read: by attention, on the stride, then the next by attention."""
    rank, n = attention_ranks(attention), attention.shape[1]
    first, strided = attended_and_strided(attention, attended, ratio=ratio)
    raster = torch.arange(n, device=rank.device).expand_as(rank)
    later = torch.where(strided, n + raster, 2 * n + rank)
    return torch.where(first, rank, later).argsort(1)[:, :keep]
