"""DART: tokens that are unlike a few pivots, chosen by what they duplicate rather than by attention."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from learnpruner.core.pruner import Pruner
from learnpruner.core.selection import Selection, gather_tokens, top_k_selection
from learnpruner.core.signals import KEYS, STATES, TEXT_KEYS, TEXT_MASK, TEXT_STATES, View
from learnpruner.utils.errors import UserError


class DART(Pruner):
    """Keeps pivots, the visual tokens of the largest keys, and the tokens least similar to each pivot in turn.

    Pivots are the visual and the text tokens (after the image) whose keys have the largest L1 norm in the layer before
    the cut; similarity is the cosine of hidden states after the LLM's final norm. A token taken is taken once.
    Paper: https://arxiv.org/abs/2502.11494, cut at layer 2 of 32, original positions, 4 + 4 pivots.

    Differs from the authors' code: it visits pivots in the order of a Python set, here visual pivots come first, then
    text pivots, each by descending norm (`order` of `dart` takes any other, for equality tests); it takes
    int(T / pivots) for each pivot and so keeps another count than T, here T minus the visual pivots are shared out,
    the first pivots take one more where that does not divide, and exactly T stay. With fewer than `visual_pivots` to
    keep, pivots alone stay.

    Args:
        visual_pivots, text_pivots: how many of each.
    """

    needs = frozenset({KEYS, TEXT_KEYS, STATES, TEXT_STATES, TEXT_MASK})

    def __init__(self, visual_pivots: int = 4, text_pivots: int = 4) -> None:
        super().__init__()
        if visual_pivots < 1 or text_pivots < 0:
            raise UserError(
                f"visual_pivots={visual_pivots}, text_pivots={text_pivots} is refused: "
                "one visual pivot at least, and no negative number."
            )
        self.visual_pivots, self.text_pivots = visual_pivots, text_pivots

    def forward(self, view: View, keep: Tensor) -> Selection:
        valid = torch.ones_like(view[STATES][..., 0], dtype=torch.bool) if view.valid is None else view.valid
        mask = view[TEXT_MASK].to(valid.device)
        wanted = keep.to(valid.device).minimum(valid.sum(1))
        visual = pivot_tokens(view[KEYS], valid, wanted.clamp(max=self.visual_pivots))
        text = pivot_tokens(view[TEXT_KEYS], mask, mask.sum(1).clamp(max=self.text_pivots))
        states, order = _sequence(view[STATES], view[TEXT_STATES], visual, text)
        return top_k_selection(dart_mask(states, valid, order, visual, wanted).float(), keep, view.valid)


def pivot_tokens(keys: Tensor, valid: Tensor, count: Tensor) -> Tensor:
    """Find the tokens with the largest L1 norm of their keys.

    Args:
        keys: (B, N, C).
        valid: (B, N) which of them may be pivots.
        count: (B,) how many.

    Returns:
        (B, P), descending, -1 where there are fewer.
    """
    norm = keys.float().abs().sum(-1).masked_fill(~valid, -torch.inf)
    best = norm.sort(dim=1, descending=True, stable=True).indices[:, : int(count.max()) if count.numel() else 0]
    return best.masked_fill(torch.arange(best.shape[1], device=best.device) >= count[:, None], -1)


def _sequence(states: Tensor, text_states: Tensor, visual: Tensor, text: Tensor) -> tuple[Tensor, Tensor]:
    """States of visual tokens and text as one, (B, N + T, D), and the pivots in it, visual ones first: (B, P)."""
    behind = torch.where(text < 0, text, text + states.shape[1])
    return torch.cat([states, text_states.to(states.device)], 1), torch.cat([visual, behind.to(visual.device)], 1)


def dart_mask(states: Tensor, valid: Tensor, order: Tensor, visual: Tensor, keep: Tensor) -> Tensor:
    """Mark which of the first N of L tokens stay: the pivots, and what is least similar to each of them in turn.

    Args:
        states: (B, L, D), what similarity is measured on.
        valid: (B, N) which may stay.
        order: (B, P) pivots among the L, in the order in which they choose, -1 for none.
        visual: (B, V) those of the N that stay as pivots themselves, -1 for none.
        keep: (B,) tokens to keep, these pivots included.

    Returns:
        (B, N) bool.
    """
    unit = F.normalize(states.float(), dim=-1)
    candidates = unit[:, : valid.shape[1]]
    kept = _marked(visual, valid.shape[1])
    for number, quota in enumerate(pivot_quotas(order >= 0, keep - kept.sum(1)).unbind(1)):
        pivot = gather_tokens(unit, order[:, number, None].clamp_min(0))  # (B, 1, D)
        similarity = (candidates @ pivot.transpose(1, 2))[..., 0].masked_fill(kept | ~valid, torch.inf)
        rank = similarity.argsort(dim=1, stable=True).argsort(dim=1)
        kept = kept | (rank < quota[:, None]) & ~kept & valid
    return kept


def pivot_quotas(real: Tensor, total: Tensor) -> Tensor:
    """Share total (B,) out among the real (B, P) pivots; the first take one more where it does not divide: (B, P)."""
    count = real.sum(1).clamp_min(1)
    base, more = total // count, total % count
    number = real.cumsum(1) - 1
    return (base[:, None] + (number < more[:, None])) * real


def _marked(index: Tensor, n: int) -> Tensor:
    """Index (B, V), -1 for none, as (B, n) bool."""
    marks = torch.zeros(index.shape[0], n + 1, dtype=torch.bool, device=index.device)
    return marks.scatter(1, index.masked_fill(index < 0, n), True)[:, :n]
