"""DivPrune: tokens as far from each other as can be."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from learnpruner.core.pruner import Pruner
from learnpruner.core.selection import Selection, from_order
from learnpruner.core.signals import View


class DivPrune(Pruner):
    """Max-min diversity: the next token is the one whose most similar token among those chosen is the least similar.

    Paper: https://arxiv.org/abs/2503.02175. Cosine similarity of the tokens that it sees, in the authors' code the
    projected ones. The first is the token that is least like any other. As in later versions of their code kept tokens
    stand in raster order. Ties go to the lower index.
    """

    def forward(self, view: View, keep: Tensor) -> Selection:
        order = max_min_order(view.tokens, int(keep.max()), view.valid)
        return from_order(order, keep, view.tokens.shape[1], view.valid)


def max_min_order(tokens: Tensor, keep: int, valid: Tensor | None = None) -> Tensor:
    """Choose `keep` of the tokens (B, N, D), each the least similar to those before: (B, keep), in that order."""
    unit = F.normalize(tokens.float(), dim=-1)
    similarity = unit @ unit.transpose(1, 2)
    rows = torch.arange(len(tokens), device=tokens.device)
    taken = torch.zeros_like(tokens[..., 0], dtype=torch.bool) if valid is None else ~valid
    itself = torch.eye(tokens.shape[1], dtype=torch.bool, device=tokens.device)
    nearest = similarity.masked_fill(itself | taken[:, None], -torch.inf).amax(-1)  # (B, N)
    order = []
    for step in range(keep):
        following = nearest.masked_fill(taken, torch.inf).argmin(1)  # the first of equals
        order.append(following)
        taken = taken.scatter(1, following[:, None], True)
        seen = similarity[rows, following]
        nearest = torch.maximum(nearest, seen) if step else seen
    return torch.stack(order, 1)
