"""VisPruner: the most attended tokens, and tokens unlike each other among the rest."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from learnpruner.core.pruner import RowwisePruner
from learnpruner.core.selection import Selection, gather_tokens
from learnpruner.core.signals import CLS_ATTENTION, RECEIVED_ATTENTION, View
from learnpruner.utils.errors import UserError

_SALIENCY = {"cls": CLS_ATTENTION, "received": RECEIVED_ATTENTION.at(-1)}
_AT_ONCE = 8  # tokens that a round of the diverse part removes, the authors' constant


class VisPruner(RowwisePruner):
    """Keeps `ratio` of the budget by attention; the rest is thinned out until no two tokens left are much alike.

    Paper: https://arxiv.org/abs/2412.01818. Differences from the authors' code: it fails where the rest is odd in number
    or a round would remove more than half of it, here the even positions of an odd list are one more and a round
    removes at most these; an image does not depend on the others of its batch; similarity is computed in fp32, before
    the projector as there, and the projector runs on kept tokens only, which gives the same.

    Args:
        ratio: share of the kept tokens chosen by attention; higher trusts attention more, lower spreads more.
        saliency: "cls", the [CLS] row of the layer that the projector reads; "received", attention received in the last
            layer, which the authors use on towers without [CLS].
    """

    def __init__(self, ratio: float = 0.5, saliency: str = "cls") -> None:
        super().__init__()
        if not 0 <= ratio <= 1:
            raise UserError(f"ratio={ratio!r} is refused: it is a share of the kept tokens, from 0 to 1.")
        if saliency not in _SALIENCY:
            raise UserError(f"saliency={saliency!r} is refused: choose one of {', '.join(_SALIENCY)}.")
        self.ratio, self.saliency = ratio, saliency
        self.needs = frozenset({_SALIENCY[saliency]})

    def choose(self, view: View, keep: int) -> Selection:
        seen = view[_SALIENCY[self.saliency]].float()
        scores = seen.mean(1) if seen.dim() == 3 else seen
        return Selection(vispruner_index(scores, view.tokens, keep, self.ratio))


def vispruner_index(scores: Tensor, tokens: Tensor, keep: int, ratio: float) -> Tensor:
    """Choose tokens in raster order, (B, keep); scores (B, N), tokens (B, N, D).

    Args:
        scores: attention of [CLS], higher stays.
        tokens: what similarity is measured on.
        keep: tokens of each row.
        ratio: share of them by attention; the rest is thinned out by similarity.
    """
    order = scores.float().sort(dim=1, descending=True, stable=True).indices
    important = int(keep * ratio)
    left = remove_redundant(order[:, important:], tokens, keep - important)
    return torch.cat([order[:, :important], left], 1).sort(1).values


def remove_redundant(left: Tensor, tokens: Tensor, keep: int) -> Tensor:
    """Remove the most redundant from a list of tokens, (B, M) indices, until `keep` are left: (B, keep).

    In each round, a token at an even position is as redundant as it is similar to the most similar at an odd one.
    """
    if keep == 0:
        return left[:, :0]
    unit = F.normalize(tokens.float(), dim=-1)
    similarity = (unit @ unit.transpose(1, 2)).flatten(1)  # (B, N x N)
    while left.shape[1] > keep:
        even, odd = left[:, ::2], left[:, 1::2]
        pairs = even[:, :, None] * tokens.shape[1] + odd[:, None]  # (B, E, O)
        closest = similarity.gather(1, pairs.flatten(1)).view_as(pairs).amax(-1)
        remove = min(_AT_ONCE, left.shape[1] - keep, even.shape[1])
        stays = closest.sort(dim=1, descending=True, stable=True).indices[:, remove:]
        left = torch.cat([gather_tokens(even, stays), odd], 1)
    return left
